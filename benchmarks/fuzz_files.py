"""Mutated video files through the real curation, in batches beside one good file. See benchmarks.fuzz."""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import random
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.fuzz_footage import write_footage
from benchmarks.fuzz_mutations import mutated
from mugv.curation import shard
from mugv.curation.publish import publish
from mugv.curation.rows import ClipRow, read_rows
from mugv.curation.sources import TABLE, SourceFile, assign_shards, read_sources_table, write_sources
from mugv.curation.sources_folder import EXTENSIONS
from mugv.curation.sources_read import read_sources
from mugv.media.decoder import KEPT_BYTES
from mugv.recipe.curation import Curation, Range

BATCH = 12
GOOD = "good.mp4"
SLOWEST_SECONDS = 60.0
"""For one source, fetching and merging left out; it may read a few megabytes of pictures. Longer counts as a hang."""
STUCK_SECONDS = 900
"""For a batch, after which the process ends with a traceback of where it is."""
GROWTH_BAR = 64 * 2**20
"""Bytes by which this process may grow between the first batches and the last."""
DECODERS_BAR = KEPT_BYTES + 64 * 2**20
MOST_FAULTS = 20
WARM = 5
"""Batches before memory is measured, and over which its median is taken."""


@dataclass
class Fuzzed:
    """What became of the mutations."""

    mutations: int = 0
    kept: int = 0
    """Clips."""
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    """Of the rows of mutated files; `kept` for those that have none."""
    contained: Counter[str] = field(default_factory=Counter)
    """Errors of the program that cost their source."""
    slowest: float = 0.0
    """Seconds of one source."""
    memory: list[int] = field(default_factory=list)
    """Bytes of this process after each batch."""
    decoders: int = 0
    """Most bytes of the decoders that wait, after any batch."""
    faults: list[str] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Bytes, from the first batches after the warm ones to the last; 0 for a run that is too short to say."""
        if len(self.memory) < 3 * WARM:
            return 0
        return round(statistics.median(self.memory[-WARM:]) - statistics.median(self.memory[WARM : 2 * WARM]))


def fuzz_files(
    seconds: float, seed: int, originals: Sequence[Path], keep: Path | None = None, mutations: int = sys.maxsize
) -> Iterator[Fuzzed]:
    """Mutate until the time is over or `mutations` are done; yields the state so far after each batch."""
    found, settings, began = Fuzzed(), open_settings(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        good = write_footage(root / "good", ("h264.mp4",))[0].read_bytes()
        alone = _curated(root, {GOOD: good}, settings, found, keep)
        whole = {path: path.read_bytes() for path in originals}
        while time.monotonic() - began < seconds and found.mutations < mutations and len(found.faults) < MOST_FAULTS:
            batch = _batch(whole, seed, found.mutations)
            rows = _curated(root, {GOOD: good, **batch}, settings, found, keep)
            found.mutations += len(batch)
            _count(found, rows)
            if rows is not None and _of(rows, GOOD) != _of(alone or [], GOOD):
                found.faults.append(f"mutation {found.mutations}: the good file's rows are others")
            gc.collect()
            own, decoders = memory()
            found.memory.append(own)
            found.decoders = max(found.decoders, decoders)
            found.seconds = time.monotonic() - began
            yield found


def open_settings() -> Curation:
    """No threshold rejects, so that whatever decodes is cut, hashed and stored."""
    limits = {name: {"minimum": None, "maximum": None} for name, f in Curation.model_fields.items() if isinstance(f.default, Range)}
    text = {"detector": "off", "maximum": None}
    clip = {"frames": 9, "fps": 12, "short_side": 64, "stride_frames": 9}
    return Curation.model_validate({**limits, "text": text, "clip": clip, "require_caption": False})


def _batch(whole: dict[Path, bytes], seed: int, first: int) -> dict[str, bytes]:
    """Each mutation follows from its number, whatever came before."""
    files = {}
    for number in range(first, first + BATCH):
        rng = random.Random(f"{seed} {number}")
        path = rng.choice(list(whole))
        # Some under another format's name: what a file is called says little.
        suffix = path.suffix if rng.random() < 0.9 else rng.choice(sorted(EXTENSIONS))
        files[f"{number:07d}-{path.stem}{suffix}"] = mutated(whole[path], rng)
    return files


def _curated(root: Path, files: dict[str, bytes], settings: Curation, found: Fuzzed, keep: Path | None) -> list[ClipRow] | None:
    """Rows of the batch before the merge; None, and a fault, when anything is raised."""
    videos, work, out = (root / name for name in ("videos", "work", "out"))
    for folder in (videos, work, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for name, data in files.items():
        (videos / name).write_bytes(data)
    before = len(found.faults)
    faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True)
    try:
        return _stages(videos, work, out, settings, found)
    except Exception:
        found.faults.append(traceback.format_exc())
        return None
    finally:
        faulthandler.cancel_dump_traceback_later()
        if keep and len(found.faults) > before:
            shutil.copytree(videos, keep / f"batch-{found.mutations}", dirs_exist_ok=True)


def _stages(videos: Path, work: Path, out: Path, settings: Curation, found: Fuzzed) -> list[ClipRow]:
    """The stages scan, curate_shard and curate, and what must hold after them."""
    sources = assign_shards(read_sources(videos), 1)
    write_sources(out / TABLE, sources)
    sources = read_sources_table(out / TABLE)
    finished = shard.curate_shard(sources, shard.Access(videos), settings, work, lambda *_: None)
    (out / "part").mkdir()
    shard.write_part(finished, out / "part", 0)
    rows = read_rows(out / "part" / shard.PART)
    (out / "set").mkdir()
    publish([out / "part"], out / "set", settings, seed=0)
    _check(videos, sources, rows, read_rows(out / "set" / "manifest.parquet"), found)
    for source, home in zip(sources, finished.homes, strict=True):
        wall = json.loads((home / shard.METER).read_text())["wall_seconds"]
        found.slowest = max(found.slowest, wall)
        if wall > SLOWEST_SECONDS:
            found.faults.append(f"{source.name}: {wall:.0f} s")
    return rows


def _check(videos: Path, sources: Sequence[SourceFile], rows: Sequence[ClipRow], merged: Sequence[ClipRow], found: Fuzzed) -> None:
    there = {path.name for path in videos.iterdir()}
    for what, names in {
        "sources": {s.name for s in sources},
        "part": {r.source for r in rows},
        "manifest": {r.source for r in merged},
    }.items():
        if names != there:
            found.faults.append(f"{what}: {len(there - names)} sources lost, {len(names - there)} made up: {sorted(there ^ names)[:3]}")
    if len({row.clip_id for row in merged}) < len(merged) or len(merged) != len(rows):
        found.faults.append("manifest: rows lost, or two of one clip_id")
    nameless = [row.source for row in merged if row.status == "rejected" and not row.reason]
    if nameless:
        found.faults.append(f"rejected without a reason: {nameless[:3]}")


def _count(found: Fuzzed, rows: Sequence[ClipRow] | None) -> None:
    for row in rows or ():
        if row.source != GOOD:
            found.reasons[row.reason or row.status] += 1
            found.kept += row.status == "kept"
        if row.reason == "failed":
            found.contained[row.detail] += 1


def _of(rows: Sequence[ClipRow], name: str) -> list[ClipRow]:
    return [row for row in rows if row.source == name]


def memory() -> tuple[int, int]:
    """Resident bytes of this process, and of its children."""
    process = psutil.Process()
    return process.memory_info().rss, sum(p.memory_info().rss for p in process.children(recursive=True))


def report(found: Fuzzed) -> list[str]:
    """What happened, in lines."""
    rate = found.mutations / max(1e-9, found.seconds)
    lines = [
        f"{found.mutations:,} mutations in {found.seconds:.0f} s ({rate:.1f} a second), slowest source {found.slowest:.1f} s",
        "rows: " + ", ".join(f"{reason} {count}" for reason, count in found.reasons.most_common()),
        f"memory after each batch: {found.growth / 2**20:+.0f} MiB from the first batches to the last (bar {GROWTH_BAR >> 20} MiB),"
        f" decoders {found.decoders / 2**20:.0f} MiB at most (bar {DECODERS_BAR >> 20} MiB)",
    ]
    lines += [f"contained {count} x {text}" for text, count in found.contained.most_common(12)]
    return lines + [f"FAULT {fault}" for fault in found.faults] + [f"{len(found.faults)} faults"]


def run(minutes: float, seed: int, videos: Path | None, keep: Path | None) -> int:
    """Exit code 1 when anything was raised, lost, changed or stuck, or memory grew."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        originals = write_footage(Path(folder))
        if videos:
            originals += sorted(path for path in videos.iterdir() if path.suffix.lower() in EXTENSIONS)
        found, said = Fuzzed(), time.monotonic()
        for found in fuzz_files(60 * minutes, seed, originals, keep):
            if time.monotonic() - said > 30:
                said = time.monotonic()
                print(f"{found.mutations:,} mutations, {found.seconds:.0f} s, {len(found.faults)} faults", flush=True)
    if found.growth > GROWTH_BAR:
        found.faults.append(f"memory grew by {found.growth / 2**20:.0f} MiB")
    if found.decoders > DECODERS_BAR:
        found.faults.append(f"decoders keep {found.decoders / 2**20:.0f} MiB")
    print("\n".join(report(found)))
    return int(bool(found.faults))
