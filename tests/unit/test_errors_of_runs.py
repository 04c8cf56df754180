"""What a failed pipeline tells the user: the most telling account there is, in one line."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mugv.errors import UserError
from mugv.platform.local import RunLog, StageFailedError, _failure, measure
from mugv.platform.lock import state_lock
from mugv.platform.records import ERROR_MARK, RunRecord
from mugv.platform.tracking import mark_dead


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
