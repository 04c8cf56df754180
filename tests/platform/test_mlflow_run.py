"""`mugv run` from start to end with tiny stages: KFP's local runner, store, records, MLflow and registry are the real ones."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "unit"))

from processor_time import children_seconds  # noqa: E402
from recipes import TREE  # noqa: E402

from mugv.cli.main import app  # noqa: E402
from mugv.platform.records import RunRecord, all_runs  # noqa: E402
from mugv.platform.registry import Registry  # noqa: E402
from mugv.platform.tracking import Tracking  # noqa: E402
from mugv.processes import alive  # noqa: E402

SHORT = {**TREE, "data": {"shards": 2}, "align": None, "sft": None, "pretrain": TREE["pretrain"][:1]}
NODES = [
    "footage",
    "scan",
    "curate_shard-0",
    "curate_shard-1",
    "curate",
    "train_vae",
    "encode",
    "pretrain-0",
    "evaluate",
    "register",
]


ODD_NAME = "run #1 50%25 ü?x=y"
"""Characters that mean something in a URI: outputs and the database landed in another folder."""


@dataclass
class Workplace:
    """A folder with a recipe and a state; runs `mugv` there with the tiny stages."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        # As above; the fixtures that tests share run before.
        ours = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        return subprocess.Popen(
            [sys.executable, "-m", "mugv.cli.main", *arguments, "--state", str(self.state)],
            cwd=self.folder,
            env={**ours, "PYTHONPATH": f"{HERE / 'tiny_stages'}{os.pathsep}{HERE.parents[1]}", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def mugv(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    def run(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        return self.mugv("run", "--recipe", "recipe.yaml", *arguments, **env)

    def last(self) -> RunRecord:
        return next(iter(all_runs(self.state)))

    def statuses(self) -> dict[str, str]:
        return {stage["node"]: stage["status"] for stage in self.last().stages()}


@pytest.fixture(autouse=True)
def no_other_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps the address that it was last given in the environment, where the next test would find it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("finished") / ODD_NAME)
    place.folder.mkdir()
    (place.folder / "recipe.yaml").write_text(yaml.safe_dump(SHORT))
    code, out, err = place.run()
    assert code == 0, out + err
    return place


@pytest.fixture
def place(finished: Workplace, tmp_path: Path) -> Workplace:
    """A copy of the finished state: its database is made already. The first stage that a test asks for is missing."""
    copy = Workplace(tmp_path)
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    return copy


FAILING = ("--set", "encode.batch=3")
"""A change that makes `encode` and what follows run again."""


def test_first_run_makes_every_stage_and_a_champion(finished: Workplace) -> None:
    assert finished.statuses() == dict.fromkeys(NODES, "ran")
    run = finished.last().read()
    assert (run["status"], run["tracked"], run["kfp"]["tasks"]) == ("finished", True, len(NODES))
    champion = Registry(Tracking.of_state(finished.state).uri).champion("mugv")
    assert champion is not None
    assert champion.metrics == {"t2v_seen_all": 0.8}
    assert "all three" not in (finished.last().folder / "kfp.log").read_text()
    assert (finished.last().folder / "report.html").is_file()
    assert list((finished.state / "work").iterdir()) == []


def test_json_documents_hold_what_scripts_read(finished: Workplace) -> None:
    def document(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*arguments, "--json", "--state", str(finished.state)])
        assert (result.exit_code, result.stderr) == (0, "")
        return dict(json.loads(result.stdout))

    (line,) = document("runs")["runs"]
    assert (line["status"], line["recipe"], line["stage_count"], line["hit_count"]) == ("finished", "test", len(NODES), 0)
    run = document("show")
    assert {key: run[key] for key in line} == line
    assert {stage["name"]: stage["status"] for stage in run["stages"]} == dict.fromkeys(NODES, "ran")
    assert all(stage["output"].startswith("file://") and stage["seconds"] >= 0 for stage in run["stages"])
    assert (run["model"]["uri"], run["error"], run["damaged"]) == ("models:/mugv/1", None, [])
    found = document("lineage")
    assert (found["model"], found["version"], found["aliases"]) == ("mugv", "1", ["champion"])
    assert found["lineage"]["run"] == run["run"]
    plan = document("plan", "--recipe", str(finished.folder / "recipe.yaml"))
    assert {stage["cache"] for stage in plan["stages"]} == {"hit"}
    assert {stage["seconds_are"] for stage in plan["stages"]} == {"measured"}
    assert (plan["stages_to_run"], plan["stages_in_all"], plan["seconds"]) == (0, len(NODES), 0)


def test_everything_lies_in_the_state_folder_whatever_its_name(finished: Workplace) -> None:
    assert [p.name for p in finished.folder.parent.iterdir()] == [ODD_NAME]
    assert sorted(p.name for p in finished.folder.iterdir()) == ["recipe.yaml", "state"]
    assert {"mlflow.db", "mlartifacts", "runs", "store"} <= {p.name for p in finished.state.iterdir()}
    for command in (("runs",), ("show",), ("lineage",)):
        code, out, err = finished.mugv(*command)
        assert (code, err) == (0, ""), out


def test_kfp_costs_at_most_half_a_second_a_task_beyond_imports(finished: Workplace) -> None:
    assert finished.last().read()["kfp"]["seconds"] < 0.5


def test_every_stage_is_a_nested_run_with_its_curve_and_parameters(finished: Workplace) -> None:
    tracking = Tracking.of_state(finished.state)
    runs = {run.info.run_name: run for run in tracking.client.search_runs([tracking.experiment])}
    parent = next(run for name, run in runs.items() if name.startswith("test "))
    assert parent.info.status == "FINISHED"
    assert all(runs[node].data.tags["mlflow.parentRunId"] == parent.info.run_id for node in NODES)
    curve = tracking.client.get_metric_history(runs["pretrain-0"].info.run_id, "loss")
    assert [(m.step, m.value) for m in curve] == [(i, 1.0 / (i + 1)) for i in range(5)]
    assert runs["pretrain-0"].data.params["pretrain.0.steps"] == "2"
    dataset = runs["pretrain-0"].inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("latents", finished.last().stage("encode")["output"]["digest"][:36])
    assert [a.path for a in tracking.client.list_artifacts(runs["evaluate"].info.run_id)] == ["report.html"]


def test_second_run_with_nothing_changed_is_all_hits_and_fast(place: Workplace) -> None:
    began = children_seconds()
    code, _, err = place.run()
    assert code == 0, err
    assert set(place.statuses().values()) == {"hit"}
    assert children_seconds() - began < 30
    tracking = Tracking.of_state(place.state)
    parent = tracking.client.get_run(json.loads((place.last().folder / "tracking" / "run.json").read_text())["run_id"])
    assert parent.data.tags["mugv.stage.encode"].startswith("hit ")
    assert len(Registry(tracking.uri).versions("mugv")) == 1


def test_changed_threshold_reruns_curation_and_what_follows(place: Workplace) -> None:
    changed = ("--set", "curation.sharpness.minimum=9")
    code, out, _ = place.mugv("plan", "--recipe", "recipe.yaml", *changed)
    assert code == 0
    planned = dict(re.findall(r"^(\S+) +(hit|miss) ", out, re.MULTILINE))
    rows = [*NODES[:2], *NODES[4:]]
    assert planned == {node: "hit" if node in ("footage", "scan") else "miss" for node in rows}
    assert "curate_shard x 2  miss" in out
    assert place.run(*changed)[0] == 0
    assert place.statuses() == {node: "hit" if node in ("footage", "scan") else "ran" for node in NODES}
    assert "t2v_seen_all" not in place.last().read()["error"]


def test_users_mistake_in_a_stage_is_one_line_and_exit_2(place: Workplace) -> None:
    code, _, err = place.run(*FAILING, TINY_FAIL="encode:user")
    assert (code, err) == (2, "error: captions.jsonl line 3: not JSON; expected one object a line\n")


def test_disk_that_fills_up_during_a_run_is_one_line_and_exit_2_and_nothing_is_lost(place: Workplace, finished: Workplace) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place.state)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        shutil.copytree(finished.state, place.state, dirs_exist_ok=True)
        code, _, err = place.run(*FAILING, TINY_FAIL="encode:fill")
        assert code == 2
        assert re.fullmatch(r"error: [^\n]*No space left on device; free some space and run again; finished stages are kept\n", err), err
        assert not list((place.state / "store" / "encode").glob("*/big"))
        assert place.run(*FAILING)[0] == 0
        assert place.statuses() == {n: "resumed" if n == "encode" else "hit" if n in NODES[:6] else "ran" for n in NODES}
    finally:
        subprocess.run(["umount", str(place.state)], check=True)


def wait_for(condition: object, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def sleeping_run(place: Workplace) -> tuple[subprocess.Popen[str], int]:
    """A run whose `encode` sleeps after three steps, and the id of that stage's process."""
    before = place.last().run
    process = place.start("run", "--recipe", "recipe.yaml", *FAILING, TINY_FAIL="encode:sleep")
    wait_for(lambda: place.last().run != before and "work" in place.last().stage("encode"))
    stage = place.last().stage("encode")
    curve = Path(stage["work"]) / "train" / "metrics.jsonl"
    wait_for(lambda: curve.is_file() and len(curve.read_text().splitlines()) >= 3)
    return process, stage["pid"]


def test_second_run_is_refused_and_sigint_stops_the_stage_and_the_next_run_goes_on(place: Workplace) -> None:
    process, pid = sleeping_run(place)
    code, _, err = place.run()
    busy = f"a run is going on there (process {process.pid}); wait for it or give another --state"
    assert (code, err) == (2, f"error: state folder {place.state}: {busy}\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "error: stopped; what is finished is kept, and the next `mugv run` goes on from there\n"
    assert not Path(f"/proc/{pid}").exists()
    assert (place.statuses()["encode"], place.last().read()["status"]) == ("interrupted", "interrupted")
    assert place.run(*FAILING)[0] == 0
    assert place.statuses()["encode"] == "resumed"


def test_stages_of_a_killed_run_end_by_themselves_and_are_resumed_with_their_whole_curve(place: Workplace) -> None:
    process, pid = sleeping_run(place)
    process.kill()
    wait_for(lambda: not alive(pid), 20)
    process.communicate()
    assert place.statuses()["encode"] == "interrupted"
    assert place.run(*FAILING)[0] == 0
    assert place.statuses()["encode"] == "resumed"
    tracking = Tracking.of_state(place.state)
    sent = json.loads((place.last().folder / "tracking" / "stages" / "encode.json").read_text())
    assert [m.step for m in tracking.client.get_metric_history(sent["run_id"], "loss")] == [0, 1, 2, 3, 4]
    assert [run.read()["status"] for run in all_runs(place.state)] == ["finished", "killed", "finished"]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture
def late_server(place: Workplace, port: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list to which a test adds servers; they are ended afterwards."""
    servers: list[subprocess.Popen[bytes]] = []
    yield servers
    for server in servers:
        server.terminate()
        server.wait(20)


def start_server(place: Workplace, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{place.state / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(place.folder / "served"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(up)
    return server


def test_metrics_of_an_outage_are_kept_and_sent_by_the_next_run(
    place: Workplace, port: int, late_server: list[subprocess.Popen[bytes]]
) -> None:
    uri = f"http://user:hunter2@127.0.0.1:{port}"
    code, out, err = place.run(*FAILING, MLFLOW_TRACKING_URI=uri)
    assert code == 2
    assert "hunter2" not in out + err
    assert re.search(r"error: MLflow http://\S+: the version cannot be registered .* run again when it answers", err)
    assert "metrics are kept and sent later" in out
    assert "is kept in" in out
    lost = place.last()
    assert lost.read()["tracked"] is False
    assert lost.stage("evaluate")["status"] == "ran"
    late_server.append(start_server(place, port))
    code, out, err = place.run(*FAILING, MLFLOW_TRACKING_URI=uri)
    assert code == 0, err
    assert RunRecord(lost.folder).read()["tracked"] is True
    sent = json.loads((lost.folder / "tracking" / "stages" / "encode.json").read_text())
    client = Tracking(uri).client
    assert [m.step for m in client.get_metric_history(sent["run_id"], "loss")] == [0, 1, 2, 3, 4]
    assert client.get_run(sent["run_id"]).info.status == "FINISHED"
    assert [p for p in place.folder.rglob("*") if p.is_file() and b"hunter2" in p.read_bytes()] == []


def wait_until_made(place: Workplace, process: subprocess.Popen[str]) -> None:
    """Until the run makes MLflow's database."""
    wait_for(lambda: list(place.state.glob(".mlflow.db.making-*/mlflow.db")) or process.poll() is not None)
    assert process.poll() is None, process.communicate()


def test_stop_before_the_first_stage_is_one_line_and_a_record(finished: Workplace, tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    shutil.copy(finished.folder / "recipe.yaml", tmp_path)
    process = place.start("run", "--recipe", "recipe.yaml")
    wait_until_made(place, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "error: stopped; what is finished is kept, and the next `mugv run` goes on from there\n")
    assert "MLflow's database" in out
    assert (place.last().read()["status"], place.last().stages()) == ("interrupted", [])
    assert not (place.state / "mlflow.db").exists()


def test_kill_in_the_first_seconds_costs_no_later_run_its_tracking(finished: Workplace, tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    shutil.copy(finished.folder / "recipe.yaml", tmp_path)
    shutil.copytree(finished.state / "store", place.state / "store")
    for _ in range(2):
        process = place.start("run", "--recipe", "recipe.yaml")
        wait_until_made(place, process)
        process.kill()
        process.communicate()
    code, out, err = place.run()
    assert (code, err) == (0, "")
    assert place.last().read()["tracked"] is True
    assert "registered again" in out
