"""Records of runs that a power cut or another program damaged: named, left out, never a traceback."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.errors import UserError
from mugv.platform.forwarder import unsent_runs
from mugv.platform.records import RunRecord, all_runs, find_run, made_by

DAMAGE = [
    b"",
    b"{",
    b'{"started": 1',
    b"[]",
    b"null",
    b"7",
    b"\xff\xfe\x00",
    b"\0" * 4096,
    b"[" * 100_000,
    b'{"run": 5}',
    b'{"node": "scan", "run": "b", "started": "yesterday"}',
    b'{"node": "scan", "run": "b", "started": NaN}',
    b'{"node": "scan", "run": "b", "started": 1e300}',
    b'{"node": "scan", "run": "b", "ended": true}',
    b'{"node": "scan", "run": "b", "status": null}',
    b'{"node": "scan", "run": "b", "git": [], "output": []}',
    b'{"node": "scan", "run": "b", "kfp": 3, "metrics": {"kept": "many"}}',
    b"{}",
]
ODD = [
    b'{"node": "scan", "run": "b"}',
    b'{"node": "scan", "run": "b", "started": 5, "status": "running", "git": {}, "output": {"digest": "d"}, "kfp": {}, "videos": 7}',
]
"""Sparse, with right types: shown as far as they go."""


def a_run(state: Path, run: str, started: float) -> RunRecord:
    record = RunRecord.of(state, run)
    git = {"commit": "abc", "dirty": False}
    record.update(
        run=run, name="tiny", started=started, ended=started + 5, status="finished", videos=None, tracked=False, store=str(state / "store")
    )
    record.update(recipe_digest="d" * 64, git=git, kfp={"tasks": 1, "seconds": 0.1, "imports": 0.2})
    record.update_stage("scan", stage="scan", key="k", status="ran", started=started, ended=started + 1, metrics={"files": 2})
    return record


@pytest.fixture
def state(tmp_path: Path) -> Path:
    a_run(tmp_path, "a", 1.0)
    a_run(tmp_path, "b", 2.0)
    a_run(tmp_path, "c", 3.0)
    return tmp_path


def mugv(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, re.sub(r"\s+", " ", done.output)


@pytest.mark.parametrize("text", DAMAGE)
def test_damaged_run_record_is_named_and_the_others_are_shown(state: Path, text: bytes) -> None:
    path = state / "runs" / "b" / "run.json"
    path.write_bytes(text)
    code, out = mugv("runs", "--state", str(state))
    assert code == 0
    assert f"{path}: damaged record" in out
    assert all(f"{run} tiny sample footage finished 5 1 0" in out for run in "ac")
    assert mugv("show", "latest", "--state", str(state))[0] == 0
    code, out = mugv("show", "b", "--state", str(state))
    assert (code, out.count("Traceback")) == ((0 if text == b"{}" else 2), 0)
    assert f"{path}: damaged record" in out
    assert [r.run for r in unsent_runs(state, "c")] == ["a"]


@pytest.mark.parametrize("text", DAMAGE)
def test_damaged_stage_record_is_named_and_left_out(state: Path, text: bytes) -> None:
    path = state / "runs" / "b" / "stages" / "scan.json"
    path.write_bytes(text)
    code, out = mugv("show", "b", "--state", str(state))
    assert (code, f"{path}: damaged record" in out) == (0, True)
    assert mugv("runs", "--state", str(state))[0] == 0
    assert made_by(state, "k")["started"] == 3.0
    assert RunRecord.of(state, "b").stages() == []


@pytest.mark.parametrize("text", ODD)
def test_record_with_little_in_it_is_shown_as_far_as_it_goes(state: Path, text: bytes) -> None:
    (state / "runs" / "b" / "run.json").write_bytes(text)
    (state / "runs" / "b" / "stages" / "scan.json").write_bytes(text)
    for command in (("runs",), ("show", "b")):
        code, out = mugv(*command, "--state", str(state))
        assert (code, "damaged" in out) == (0, False)


def test_damaged_record_is_written_anew_by_the_run_that_goes_on(state: Path) -> None:
    record = RunRecord.of(state, "b")
    for path in (record.folder / "run.json", record.folder / "stages" / "scan.json"):
        path.write_bytes(b"{")
    record.update(run="b", status="running")
    record.update_stage("scan", status="ran")
    assert record.read() == {"run": "b", "status": "running"}
    assert record.stage("scan") == {"node": "scan", "status": "ran"}
    assert record.damage() == []


def test_damaged_progress_is_no_progress(state: Path) -> None:
    record = RunRecord.of(state, "b")
    record.write_progress("scan", 1, 2, {"loss": 1.0})
    assert record.progress("scan")["done"] == 1
    for text in (b"", b"[]", b'{"done": "x", "total": 1, "time": 2, "values": {}}'):
        (record.folder / "progress" / "scan.json").write_bytes(text)
        assert record.progress("scan") == {}


def test_records_are_on_the_disk_before_they_have_their_name(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr("mugv.durable.os.fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name))
    RunRecord.of(state, "b").update_stage("scan", status="ran")
    assert synced[0].startswith(".scan.json.")
    assert synced[1] == "stages"


def test_run_that_is_not_there_names_those_that_are(state: Path) -> None:
    (state / "runs" / "b" / "run.json").write_text("")
    with pytest.raises(UserError, match=r"no run of that name in .*; known: c, a, b"):
        find_run(state, "x")
    assert [r.run for r in all_runs(state)] == ["c", "a"]
    assert json.loads((state / "runs" / "a" / "run.json").read_text())["tracked"] is False
