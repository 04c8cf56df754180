"""How a cluster's run ends: its last task, as a pod runs it, on a state volume and a real MLflow database."""

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.platform.tracking import Tracking
from mugv.recipe import load_recipe, recipe_to_json
from mugv.stages import finish
from mugv.stages.environment import RunEnvironment
from mugv.stages.run_record import begin

ROOT = Path(__file__).resolve().parents[2]
RUN = "7e0c6a3e-5d0f-4a53-9d0e-0d6c2f6f6a11"


@dataclass
class Artifact:
    """As KFP hands one to a component."""

    path: str
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}", artifacts=folder / "artifacts")
    assert tracking.experiment
    return tracking


@pytest.fixture
def pod(tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a task; gives the state volume."""
    values = {"MUGV_STATE": str(tmp_path), "MUGV_RUN": RUN, "MLFLOW_TRACKING_URI": tracking.uri, "MUGV_GIT_COMMIT": "a" * 40}
    for name, value in {**values, "MUGV_IMAGE_DIGEST": "sha256:" + "b" * 64}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MUGV_FORWARDED", raising=False)
    monkeypatch.setattr(finish, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(finish, "PAUSE_SECONDS", 0.0)
    return tmp_path


def end(folder: Path, state: str, message: str = "") -> dict[str, Any]:
    """The last task; returns its metrics."""
    metrics, report = Artifact(str(folder / "pages" / "metrics")), Artifact(str(folder / "pages" / "report"))
    recipe = recipe_to_json(load_recipe(ROOT / "tests" / "pipeline" / "micro.yaml"))
    finish.component_main(recipe, state, message, {"metrics": metrics, "report": report})
    return metrics.metadata


def a_task(status: str = "ran") -> None:
    """What the first task of a run writes."""
    environment = RunEnvironment.from_env()
    begin(environment, load_recipe(ROOT / "tests" / "pipeline" / "micro.yaml"), "")
    environment.record().update_stage("scan", stage="scan", key="k" * 64, started=1.0, ended=2.0, status=status)


def parents(tracking: Tracking, run: str = RUN) -> list[Any]:
    wanted = f"tags.`mugv.run` = '{run}' and tags.`mugv.kind` = 'pipeline'"
    return list(tracking.client.search_runs([tracking.experiment], filter_string=wanted))


def test_the_last_task_ends_the_record_and_the_one_run_of_mlflow(pod: Path, tracking: Tracking) -> None:
    a_task()
    metrics = end(pod, "SUCCEEDED")
    (parent,) = parents(tracking)
    assert (parent.info.status, metrics["stages"]) == ("FINISHED", 1.0)
    assert parent.data.tags["mlflow.source.git.commit"] == "a" * 40
    assert parent.data.tags["mugv.image"] == "sha256:" + "b" * 64
    assert "| scan | ran | 1.0 |" in parent.data.tags["mlflow.note.content"]
    assert parent.data.params["recipe"] == "micro"
    shown = json.loads(CliRunner().invoke(app, ["show", "--json", "--state", str(pod)]).stdout)
    assert (shown["run"], shown["status"], shown["commit"]) == (RUN, "finished", "a" * 40)
    assert [line["run"] for line in json.loads(CliRunner().invoke(app, ["runs", "--json", "--state", str(pod)]).stdout)["runs"]] == [RUN]


def test_a_run_whose_first_task_never_began_ends_as_failed(pod: Path, tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUGV_RUN", "image-not-there")
    end(pod, "FAILED", "ImagePullBackOff")
    (parent,) = parents(tracking, "image-not-there")
    assert parent.info.status == "FAILED"
    assert json.loads((pod / "runs" / "image-not-there" / "run.json").read_text())["error"] == "ImagePullBackOff"


def test_mlflow_that_is_away_at_the_end_costs_nothing_and_the_next_run_sends_it(
    pod: Path, tracking: Tracking, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("MUGV_RUN", "in-the-outage")
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        a_task()
        end(pod, "SUCCEEDED")
    assert "has not got everything" in capsys.readouterr().out
    assert json.loads((pod / "runs" / "in-the-outage" / "run.json").read_text())["tracked"] is False
    monkeypatch.setenv("MUGV_RUN", "after-the-outage")
    end(pod, "SUCCEEDED")
    assert [parents(tracking, run)[0].info.status for run in ("in-the-outage", "after-the-outage")] == ["FINISHED", "FINISHED"]
    assert json.loads((pod / "runs" / "in-the-outage" / "run.json").read_text())["tracked"] is True
