"""Damaged files of many kinds beside a good one; and the fuzzer sees what it is there to see."""

import random
from pathlib import Path

import pytest

from benchmarks import fuzz_files as module
from benchmarks.fuzz_files import BATCH, Fuzzed, fuzz_files, report
from benchmarks.fuzz_footage import KINDS, write_footage
from benchmarks.fuzz_mutations import boxes, mutated
from mugv.curation import shard


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[Path]:
    kinds = tuple(name for name in KINDS if not name.startswith(("hevc", "av1", "prores")))
    return write_footage(tmp_path_factory.mktemp("originals"), kinds)


def fuzzed(originals: list[Path], mutations: int = BATCH, seed: int = 0) -> Fuzzed:
    *_, found = fuzz_files(60, seed, originals, mutations=mutations)
    return found


def test_dozens_of_damaged_files_end_no_run_and_change_no_neighbour(originals):
    found = fuzzed(originals, 4 * BATCH, seed=14)
    assert found.mutations == 4 * BATCH
    assert not found.faults, "\n".join(report(found))
    assert not found.contained, "\n".join(report(found))
    assert {"kept", "unreadable"} <= set(found.reasons)


def test_a_traceback_a_lost_source_and_a_changed_neighbour_are_faults(originals, monkeypatch):
    real = shard.curate_source

    def curate(source, *rest):
        for item in real(source, *rest):
            if source.name != module.GOOD or item.row.start_frame == 0 or len(calls) < 2:
                yield item
        calls.append(source.name)

    calls: list[str] = []
    monkeypatch.setattr(shard, "curate_source", curate)
    assert fuzzed(originals).faults == [f"mutation {BATCH}: the good file's rows are others"]

    monkeypatch.setattr(shard, "curate_source", real)
    write = shard.write_part
    monkeypatch.setattr(shard, "write_part", lambda finished, out, k: write(shard.Finished(finished.homes[1:], 0, finished.meter), out, k))
    assert any(fault.startswith("part: 1 sources lost") for fault in fuzzed(originals).faults)

    monkeypatch.setattr(shard, "write_part", lambda *_: 1 / 0)
    assert any("ZeroDivisionError" in fault for fault in fuzzed(originals).faults)


def test_growth_is_that_of_the_last_batches_over_the_first():
    assert Fuzzed(memory=[999] * 5 + [100] * 20).growth == 0
    assert Fuzzed(memory=[1] * 5 + [100 + k for k in range(100)]).growth == 95
    assert Fuzzed(memory=[1, 10**12]).growth == 0


@pytest.mark.parametrize(("name", "least"), [("h264.mp4", 25), ("vp8.webm", 20), ("mpeg4.avi", 20), ("mpeg2.mts", 20)])
def test_boxes_of_each_container_are_found_and_mutated(tmp_path, name, least):
    (path,) = write_footage(tmp_path, (name,))
    data = path.read_bytes()
    found = boxes(data)
    assert len(found) >= least
    assert all(0 <= box.start < box.body <= box.end <= len(data) for box in found)
    different = {mutated(data, random.Random(k)) for k in range(40)}
    assert len(different) >= 38
    assert {mutated(data, random.Random(k)) for k in range(40)} == different
