"""What a failed pipeline tells the user: the most telling account there is, in one line."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from torch.distributed.checkpoint import CheckpointException

from mugv.errors import ServiceAwayError, StoreError, UserError
from mugv.platform.forwarder import mark_dead
from mugv.platform.local import RunLog, StageFailedError, _failure, _temporary_folder, measure
from mugv.platform.lock import state_lock
from mugv.platform.records import ERROR_MARK, RunRecord
from mugv.processes import RUNNER, alive
from mugv.stages import worker
from mugv.stages.dit_common import _failure as _rank_failure


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    record = RunRecord.of(tmp_path, "r")
    record.update(run="r", started=1.0)
    return record


def explain(record: RunRecord, *printed: str) -> StageFailedError:
    log = RunLog(record.folder / "kfp.log")
    log.write("".join(f"    {line}\n" for line in printed))
    found = _failure(record, log, RuntimeError("Pipeline finished with status FAILURE\nmore"))
    assert isinstance(found, StageFailedError)
    return found


def test_defect_names_the_stage_and_the_place_of_the_traceback(record: RunRecord) -> None:
    record.update_stage("encode", status="failed", error="ValueError: x", user_error=False)
    error = explain(record)
    assert (error.by_user, str(error)) == (False, f"stage encode: ValueError: x; traceback in {record.folder / 'kfp.log'}")


def test_users_mistake_is_passed_on_as_it_is(record: RunRecord) -> None:
    record.update_stage("scan", status="failed", error="folder v: no video", user_error=True)
    error = explain(record)
    assert (error.by_user, str(error)) == (True, "folder v: no video")


def test_error_line_of_a_stage_whose_record_could_not_be_written_is_found(record: RunRecord) -> None:
    error = explain(record, "loading", f"{ERROR_MARK}/state: No space left on device; free some space", "Traceback")
    assert (error.by_user, str(error)) == (True, "/state: No space left on device; free some space")


def test_killed_process_says_that_the_next_run_goes_on(record: RunRecord) -> None:
    record.update_stage("pretrain-0", status="running")
    assert str(explain(record)) == "stage pretrain-0: its process was killed; run again, it goes on from its last checkpoint"


def test_failure_of_kfp_itself_names_the_log(record: RunRecord) -> None:
    assert str(explain(record)) == f"RuntimeError: Pipeline finished with status FAILURE; see {record.folder / 'kfp.log'}"


def test_log_on_a_full_disk_keeps_its_last_lines(record: RunRecord) -> None:
    log = RunLog(Path("/dev/full"))
    log.write(f"one\n{ERROR_MARK}two\nthr")
    log.write("ee\n")
    assert list(log.tail) == ["one", f"{ERROR_MARK}two", "three"]


def test_overhead_counts_the_time_outside_of_the_tasks_processes(record: RunRecord) -> None:
    for node, process, entered, left in (("a", 1.0, 1.5, 3.0), ("b", 2.0, 2.5, 4.0), ("c", 5.0, 5.5, 6.0)):
        record.update_stage(node, timing={"process": process, "entered": entered, "left": left})
    overhead = measure(record, wall=7.0)
    assert (overhead.tasks, overhead.seconds, overhead.import_seconds) == (3, 1.0, 0.5)


def test_stages_of_a_dead_run_are_marked_killed(record: RunRecord) -> None:
    record.update_stage("encode", status="running", started=5.0)
    record.update_stage("scan", status="ran", started=4.0)
    mark_dead(record)
    assert [s["status"] for s in record.stages()] == ["ran", "killed"]
    assert record.read()["status"] == "killed"


def test_lock_ends_with_its_process_however_it_ends(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from mugv.platform.lock import state_lock
        with state_lock(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(60)
    """)
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"a run is going on there .process {child.pid}."), state_lock(tmp_path):
        pass
    child.kill()
    child.wait()
    with state_lock(tmp_path):
        assert int((tmp_path / "lock").read_text()) > 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ValueError: shapes differ", "ValueError: shapes differ; see "),
        (
            "sh: 1: cannot create /tmp/x/program.py: No space left on device",
            "No space left on device; free some space there, or set TMPDIR",
        ),
        ("mugv.store.X.OddError: what\nInner task failed: 'a' inside 'b'.", "mugv.store.X.OddError: what; see "),
    ],
)
def test_a_failed_task_is_told_in_its_own_words(record: RunRecord, line: str, told: str) -> None:
    assert told in str(explain(record, "Traceback (most recent call last):", *line.split("\n")))


def test_full_temporary_folder_is_named_before_a_task_fails_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(StoreError, match=rf"temporary folder {tmp_path}: No space left on device; .* set TMPDIR"), _temporary_folder():
            pass
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "file/a/b"])
def test_state_that_cannot_be_a_folder_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="give another one with --state"), state_lock(tmp_path / name):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_lock_file_of_another_program_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff\xfe")
    with state_lock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_process_ends_with_the_one_that_it_works_for(tmp_path: Path) -> None:
    program = "import time, mugv.processes as p\np.end_with_runner()\nprint('on', flush=True)\ntime.sleep(60)"
    runner = subprocess.Popen(["sleep", "60"])
    env = {**os.environ, RUNNER: str(runner.pid)}
    child = subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"on\n"
    assert alive(runner.pid)
    # Nobody waits for it: it is a zombie from now on.
    runner.kill()
    assert child.wait(10) == -signal.SIGTERM
    assert not alive(runner.pid)
    runner.wait()
    assert not alive(runner.pid)


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (UserError("labels.jsonl line 3: not JSON"), UserError, "labels.jsonl line 3: not JSON"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/w/c.pt"),
            ServiceAwayError,
            "/w/c.pt: No space left on device; free some space",
        ),
        (
            CheckpointException("write", {1: (RuntimeError("basic_ios::clear: iostream error"), None)}),
            ServiceAwayError,
            "could not be written whole",
        ),
        (IndexError("list index out of range"), RuntimeError, "IndexError: list index out of range"),
    ],
)
def test_what_ends_a_rank_reaches_the_process_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, kind: type[Exception], text: str
) -> None:
    def fails(spec: object) -> None:
        raise raised

    monkeypatch.setattr(worker, "_train", fails)
    (tmp_path / "spec.json").write_text(json.dumps({"work": str(tmp_path)}))
    for expected in ({UserError: 2, ServiceAwayError: 75}.get(kind, 1), 1):
        assert worker.main(str(tmp_path / "spec.json")) == expected
        raised = ConnectionError("a process of the group is gone")
    told = _rank_failure(tmp_path / worker.FAILURE, 1, "sft: its processes ended")
    assert type(told) is kind
    assert text in str(told)
