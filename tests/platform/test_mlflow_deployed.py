"""The MLflow server of the manifests, started by its own command line from the lock alone, with S3 (and PostgreSQL) on loopback."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "unit"))

from mlflow_server import MANIFESTS, Deployed, postgres, rendered  # noqa: E402
from recipes import small_recipe  # noqa: E402
from s3_server import Server, free_port  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from mugv.cli.main import app  # noqa: E402
from mugv.platform.registry import Registry  # noqa: E402
from mugv.platform.tracking import Tracking, TrackingRefusedError  # noqa: E402
from mugv.stages import register  # noqa: E402
from mugv.stages.base import StageContext  # noqa: E402
from mugv.store.base import Ref  # noqa: E402

KEYS = {"MUGV_S3_ACCESS_KEY": "some-key", "MUGV_S3_SECRET_KEY": "some-secret"}
USER = {
    "MLFLOW_TRACKING_USERNAME": "mugv",
    "MLFLOW_TRACKING_PASSWORD": "a password of a test",
    "DATABASE_PASSWORD": "the database's",
    "SESSION_KEY": "any",
}


@dataclass
class Place:
    server: Deployed
    bucket: Path
    """Folder with the objects of MLflow's bucket."""


@pytest.fixture(scope="module", params=["base", "overlays/gpu-cluster"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The server of an overlay; the second asks for a user and keeps its runs in PostgreSQL."""
    folder: Path = tmp_path_factory.mktemp("deployed")
    objects = plain_base() if request.param == "base" else rendered(request.param)
    (bucket := folder / "s3" / ("mugv" if request.param == "base" else "my-bucket")).mkdir(parents=True)
    with ExitStack() as stack:
        s3 = Server(folder / "s3", free_port(), keys=tuple(KEYS.values()))
        s3.start()
        stack.callback(s3.stop)
        here = {"http://object-store:8333": f"http://127.0.0.1:{s3.port}", "https://s3.example.com": f"http://127.0.0.1:{s3.port}"}
        if request.param != "base":
            port = stack.enter_context(postgres(folder / "postgres", "mlflow", USER["DATABASE_PASSWORD"], "mlflow"))
            here |= {"mlflow-postgres:5432": f"127.0.0.1:{port}", "/etc/mlflow": str(folder / "etc"), "--workers=4": "--workers=1"}
        here |= {"sqlite:////mlflow/": f"sqlite:///{folder}/"}
        server = Deployed(objects, folder, here, {"mugv-store": KEYS, "mugv-mlflow": USER})
        stack.enter_context(server.running())
        yield Place(server, bucket)


def plain_base() -> list[dict]:
    """The base as it lies there, so that this needs no kubectl: its config maps are generated from the kustomization."""
    folder = MANIFESTS / "base"
    generated = []
    for entry in yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]:
        lines = [*entry.get("literals", []), *(line for name in entry.get("envs", []) for line in (folder / name).read_text().split())]
        generated.append({"kind": "ConfigMap", "metadata": {"name": entry["name"]}, "data": dict(line.split("=", 1) for line in lines)})
    return [*yaml.safe_load_all((folder / "mlflow.yaml").read_text()), *generated]


@pytest.fixture
def client(place: Place, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """What a task has: the address, and user and password where the overlay has them. No key of the store."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "MINIO_", "MUGV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.server.uri)
    if asks(place):
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            monkeypatch.setenv(name, USER[name])
    return Tracking(place.server.uri)


def asks(place: Place) -> bool:
    """Whether the server asks who it is."""
    return any("basic-auth" in part for part in place.server.command())


def test_an_artifact_of_the_deployed_server_lies_in_the_bucket(place: Place, client: Tracking, tmp_path: Path) -> None:
    """Without boto3 in the lock the first object that was stored failed."""
    (tmp_path / "page.html").write_text("<p>a page</p>")
    run = client.start_run("x", 1.0, {})
    client.client.log_artifact(run, str(tmp_path / "page.html"))
    (stored,) = place.bucket.rglob("page.html")
    assert stored.read_text() == "<p>a page</p>"
    assert Path(client.client.download_artifacts(run, "page.html", str(tmp_path / "back"))).read_text() == "<p>a page</p>"


def register_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The stage `register` as a task runs it, of two folders that stand for weights; returns registered.json."""
    monkeypatch.setenv("MUGV_STATE", str(folder / "state"))
    inputs = {name: folder / name for name in ("evaluate", "checkpoint", "vae", "latents", "clips")}
    for name, path in inputs.items():
        path.mkdir(parents=True)
        (path / "config.json").write_text(name)
    (inputs["evaluate"] / "metrics.json").write_text(json.dumps({"t2v_seen_all": 0.8}))
    (folder / "out").mkdir()
    refs = {name: Ref(path.as_uri(), name, "d") for name, path in inputs.items()}
    register.run(StageContext(small_recipe(folder), "register", 0, inputs, refs, folder / "out", folder / "work"))
    return dict(json.loads((folder / "out" / "registered.json").read_text()))


def test_register_registers_through_the_deployed_server(
    place: Place, client: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = register_here(tmp_path, monkeypatch)
    assert (found["uri"], found["champion"]) == ("models:/mugv/1", True)
    registry = Registry(client)
    champion = registry.champion("mugv")
    assert champion is not None
    assert (registry.download(champion)["vae"] / "config.json").read_text() == "vae"
    assert [path.name for path in place.bucket.rglob("MLmodel")] == ["MLmodel"]


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_missing_or_wrong_password_is_one_line_and_exit_2_and_nothing_begins(
    place: Place, client: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    if not asks(place):
        pytest.skip("this overlay's server asks nobody who he is")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    line = rf"MLflow {place.server.uri} refuses this user \(You are not authenticated[^\n]*\); set MLFLOW_TRACKING_USERNAME and "
    for command in (("lineage",), ("promote", "1"), ("run",)):
        done = CliRunner().invoke(app, [*command, "--state", str(tmp_path / "state")])
        assert isinstance(done.exception, SystemExit), done.exception
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
        assert re.match(f"error: {line}", done.stderr), done.stderr
    (run,) = (tmp_path / "state" / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    with pytest.raises(TrackingRefusedError, match=line):
        register_here(tmp_path / "task", monkeypatch)


def test_an_address_that_the_server_does_not_take_is_one_line_that_names_the_option(place: Place, client: Tracking, tmp_path: Path) -> None:
    """A refused Host header is no lost connection: no second try mends it."""
    elsewhere = place.server.uri.replace("127.0.0.1", "127.1")
    if subprocess.run(["getent", "hosts", "127.1"], capture_output=True).returncode:
        pytest.skip("127.1 is no name of this machine here")
    done = CliRunner().invoke(app, ["lineage", "--state", str(tmp_path)], env={"MLFLOW_TRACKING_URI": elsewhere})
    assert done.exit_code == 2, done.output
    assert "--allowed-hosts" in done.stderr
