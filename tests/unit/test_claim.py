"""Two tries of one task at once: a work folder has one owner, a dead one's work is gone on with, and a late one can do no harm."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mugv.errors import ServiceAwayError, StoreError
from mugv.platform import claim as claims
from mugv.platform.claim import claimed

HOLDS = """
import sys, time
from pathlib import Path
from mugv.platform import claim
claim.BEAT_SECONDS = float(sys.argv[2])
with claim.claimed(Path(sys.argv[1])) as mine:
    (mine.work / "half").write_text("half")
    print(mine.token, flush=True)
    while True:
        time.sleep(0.02)
        (mine.work / "late").write_text("late")
"""


def holder(place: Path, beat: float = 0.05) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(place), str(beat)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_work_of_a_killed_try_is_gone_on_with_at_once_on_the_same_machine(tmp_path: Path) -> None:
    process, token = holder(tmp_path / "work" / "k")
    process.kill()
    process.wait()
    began = time.monotonic()
    with claimed(tmp_path / "work" / "k") as mine:
        assert time.monotonic() - began < 5
        assert mine.resumed
        assert mine.token != token
        assert (mine.work / "half").read_text() == "half"
        mine.remove()
    assert list((tmp_path / "work").iterdir()) == []


def test_on_another_machine_a_heart_that_stopped_tells_that_a_try_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, _ = holder(tmp_path / "k", beat=3600)
    process.kill()
    process.wait()
    monkeypatch.setattr(claims, "_machine", lambda: "another")
    monkeypatch.setattr(claims, "LEASE_SECONDS", 2.0)
    began = time.monotonic()
    with claimed(tmp_path / "k") as mine:
        assert mine.resumed
    assert time.monotonic() - began > 0.5


def test_live_try_is_waited_for_and_its_work_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, _ = holder(tmp_path / "k")
    monkeypatch.setattr(claims, "_machine", lambda: "another")
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    child = multiprocessing.get_context("fork").Process(target=_hold_once, args=(tmp_path / "k",))
    child.start()
    child.join(2.5)
    assert child.is_alive()
    process.kill()
    process.wait()
    child.join(10)
    assert child.exitcode == 0


def _hold_once(place: Path) -> None:
    with claimed(place) as mine:
        assert mine.resumed


def test_try_that_was_taken_for_dead_writes_nowhere_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, token = holder(tmp_path / "k")
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    with claimed(tmp_path / "k") as mine:
        (mine.work / "late").unlink(missing_ok=True)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(10) != 0
        assert not (tmp_path / "k" / token).exists()
        assert not (mine.work / "late").exists()


def test_holder_that_lost_its_work_says_that_the_same_again_may_go_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    stopped = []

    def work() -> None:
        with claimed(tmp_path / "k") as mine:
            mine.work.rename(tmp_path / "k" / ("0" * 16))
            mine.work.with_name(f"{mine.token}.owner").unlink()
            while not mine.lost:
                time.sleep(0.01)
            (mine.work / "file").write_text("")

    before = signal.signal(signal.SIGHUP, lambda *_: stopped.append(1))
    try:
        with pytest.raises(ServiceAwayError, match="another try of this task has taken its work over"):
            work()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert stopped


def test_what_a_failed_try_leaves_is_its_work_alone(tmp_path: Path) -> None:
    tokens = []

    def fail() -> None:
        with claimed(tmp_path / "k") as mine:
            tokens.append(mine.token)
            mine.out.mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.name for p in (tmp_path / "k").iterdir()] == tokens


def test_work_of_a_job_outside_keeps_its_name(tmp_path: Path) -> None:
    process, token = holder(tmp_path / "k")
    (tmp_path / "k" / token / claims.KEEP_NAME).write_text("{}")
    process.kill()
    process.wait()
    with claimed(tmp_path / "k") as mine:
        assert mine.token == token
        mine.remove()
    assert list(tmp_path.iterdir()) == []


def test_work_of_an_earlier_release_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "k" / "train").mkdir(parents=True)
    (tmp_path / "k" / "pid").write_text("7\n")
    with claimed(tmp_path / "k") as mine:
        assert mine.resumed
        assert (mine.work / "train").is_dir()


def test_what_no_stage_wrote_is_not_worked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "notes.txt").write_text("mine")
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.2)
    with pytest.raises(StoreError, match="holds what no stage wrote; move it away"), claimed(tmp_path / "k"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["k"]
