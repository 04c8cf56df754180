"""MLflow's database in the state folder: a kill, a full stop or another version never leaves one that no run can open again."""

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from mugv.errors import UserError
from mugv.platform import database
from mugv.platform.database import Condition, ensure, examine, sqlite_uri
from mugv.platform.forwarder import Forwarder, unsent_runs
from mugv.platform.records import RunRecord, write_json
from mugv.platform.tracking import Tracking


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database as MLflow makes it."""
    folder = tmp_path_factory.mktemp("whole")
    assert ensure(folder / "mlflow.db", folder / "mlartifacts", lambda line: None)
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    path = tmp_path / "mlflow.db"
    path.write_bytes(whole)
    return path


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def opened(path: Path) -> tuple[bool, list[str]]:
    """What `ensure` answers and says; afterwards MLflow itself must be able to work with the file."""
    said: list[str] = []
    new = ensure(path, path.parent / "mlartifacts", said.append)
    assert examine(path) is Condition.WHOLE
    assert not list(path.parent.glob(".mlflow.db.making-*"))
    return new, said


def test_whole_database_is_left_as_it_is(path: Path, whole: bytes) -> None:
    assert opened(path) == (False, [])
    assert path.read_bytes() == whole


def test_first_seconds_say_what_they_are_for(tmp_path: Path) -> None:
    new, said = opened(tmp_path / "mlflow.db")
    assert (new, said) == (True, [f"MLflow's database {tmp_path / 'mlflow.db'} is being made; this takes some seconds, once"])


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.8])
def test_kill_while_the_database_is_made_leaves_none(tmp_path: Path, seconds: float) -> None:
    program = "import sys, pathlib, mugv.platform.tracking as t\nt.Tracking.of_state(pathlib.Path(sys.argv[1])).prepare(print)"
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".mlflow.db.making-*/mlflow.db")):
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert examine(tmp_path / "mlflow.db") in (Condition.ABSENT, Condition.WHOLE)
    if seconds == 0:
        opened(tmp_path / "mlflow.db")


HALF_MADE = {
    "cut between a table and its stamp": ("UPDATE alembic_version SET version_num = '728d730b5ebd'",),
    "no stamp": ("DROP TABLE alembic_version",),
    "empty stamp": ("DELETE FROM alembic_version",),
}


@pytest.mark.parametrize("statements", HALF_MADE.values(), ids=HALF_MADE)
def test_half_made_database_that_holds_nothing_is_renewed(path: Path, statements: tuple[str, ...]) -> None:
    change(path, *statements)
    new, said = opened(path)
    assert new
    assert len(said) == 1
    assert "is set aside as" in said[0]


@pytest.mark.parametrize("content", [b"", b"no database at all" * 1000, None])
def test_emptied_or_overwritten_or_cut_database_is_set_aside_and_renewed(path: Path, whole: bytes, content: bytes | None) -> None:
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    size = path.stat().st_size
    new, said = opened(path)
    assert new
    assert [p.stat().st_size for p in path.parent.glob("mlflow.db.2*")] == [size]
    assert str(next(path.parent.glob("mlflow.db.2*"))) in said[0]


def test_half_migrated_database_keeps_what_it_holds(path: Path) -> None:
    tracking = Tracking(sqlite_uri(path))
    run = tracking.start_run("kept", 1.0, {"mugv.run": "r"})
    tracking.client.create_registered_model("mugv")
    change(path, HALF_MADE["cut between a table and its stamp"][0])
    new, said = opened(path)
    assert not new
    assert "the one before is kept as" in said[0]
    again = path.with_name("copy.db")
    again.write_bytes(path.read_bytes())
    client = Tracking(sqlite_uri(again)).client
    assert client.get_run(run).data.tags["mugv.run"] == "r"
    assert [model.name for model in client.search_registered_models()] == ["mugv"]


def test_database_of_a_newer_mlflow_is_refused_and_untouched(path: Path) -> None:
    change(path, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"mlflow\.db: written by a newer MLflow than the one here"):
        ensure(path, path.parent / "mlartifacts", lambda line: None)
    assert path.read_bytes() == before


def test_locked_database_is_not_taken_for_a_damaged_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(database.sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.05}))
    with closing(connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert ensure(path, path.parent / "mlartifacts", lambda line: None) is False
    assert sorted(p.name for p in path.parent.glob("mlflow.db*")) == ["mlflow.db", "mlflow.db.lock"]


@pytest.mark.parametrize("name", ["st %20 ü#?x", "r#1", "a?b=c&d", "50%"])
def test_database_lies_in_its_state_folder_whatever_its_name(tmp_path: Path, whole: bytes, name: str) -> None:
    state = tmp_path / name
    state.mkdir()
    (state / "mlflow.db").write_bytes(whole)
    tracking = Tracking.of_state(state)
    run = tracking.start_run("x", 1.0, {})
    tracking.client.log_text(run, "hello", "a.txt")
    with closing(sqlite3.connect(state / "mlflow.db")) as connection:
        assert connection.execute("SELECT run_uuid FROM runs").fetchall() == [(run,)]
    assert [p.read_text() for p in state.rglob("a.txt")] == ["hello"]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def a_run(state: Path, name: str, **fields: object) -> RunRecord:
    record = RunRecord.of(state, name)
    record.update(run=name, name="tiny", started=1.0, ended=2.0, status="finished", tracked=False, tracking="sqlite:///x", **fields)
    record.update_stage("scan", stage="scan", key="k", status="ran", started=1.0, ended=2.0, metrics={"files": 1})
    return record


def runs_of(tracking: Tracking) -> list[str]:
    found = tracking.client.search_runs([tracking.experiment])
    return sorted(f"{run.info.run_name} {run.info.status}" for run in found)


def test_runs_are_sent_again_to_a_new_database(path: Path) -> None:
    record = a_run(path.parent, "r1")
    record.update(tracked=True)
    write_json(record.folder / "tracking" / "run.json", {"run_id": "of the lost database", "ended": True})
    path.write_bytes(b"no database" * 500)
    tracking = Tracking.of_state(path.parent)
    Forwarder(tracking, a_run(path.parent, "r2"), older=lambda: unsent_runs(path.parent, "r2")).send()
    assert runs_of(tracking) == ["scan FINISHED", "scan FINISHED", "tiny r1 FINISHED", "tiny r2 FINISHED"]
    assert record.read()["tracked"] is True


def test_bad_records_of_earlier_runs_stop_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = path.parent
    for name, text in {"r0": "", "r1": '{"run": "r1", "tracked": false, "started": "x"}', "r2": '{"run": "r2", "tracked": false}'}.items():
        (state / "runs" / name).mkdir(parents=True)
        (state / "runs" / name / "run.json").write_text(text)
    refused = a_run(state, "r3")
    refused.update_stage("odd", stage="odd", key="k", status="ran", started=1.0, ended=2.0, metrics={"what\n?*": 1.0})
    torn = a_run(state, "r4")
    torn.curves("scan").mkdir(parents=True)
    (torn.curves("scan") / "metrics.jsonl").write_bytes(
        b'{"step": 1, "time": 1.0, "loss": 2.0}\n\0\0\0\n{"step": 2, "ti\n[]\n{"loss": 1}\n'
    )
    (torn.folder / "tracking").mkdir()
    (torn.folder / "tracking" / "run.json").write_text("{")
    tracking, last = Tracking.of_state(state), a_run(state, "r5")
    with Forwarder(tracking, last, older=lambda: unsent_runs(state, last.run)) as forwarder:
        assert forwarder.close()
    names = runs_of(tracking)
    assert {"tiny r3 RUNNING", "tiny r4 FINISHED", "tiny r5 FINISHED"} <= set(names) or "tiny r3 FINISHED" in names
    assert refused.read()["tracked"] not in (True, False)
    assert f"{refused.folder}: MLflow does not take its records" in caplog.text
    assert torn.read()["tracked"] is True
