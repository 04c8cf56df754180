"""`mugv doctor` names what is missing, one line each, whatever else is broken."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kfp_recorder import recording_server
from pipeline_recipes import full_recipe
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.platform import doctor
from mugv.platform.doctor import examine, machine, ok, services
from mugv.platform.doctor.kubernetes import cluster, named_objects

NAMES = (
    *("KFP_ENDPOINT", "KFP_NAMESPACE", "KFP_TOKEN", "MUGV_STORE", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "KUBECONFIG"),
    "KUBERNETES_SERVICE_HOST",
)
Answers = dict[str, tuple[int, str]]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))


@contextmanager
def answering(answers: Answers) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            asked.append(self.headers.get("Authorization", ""))
            status, text = answers.get(self.path, (404, '{"kind":"Status","code":404}'))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = _answer

        def log_message(self, *args: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", asked
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def run(*options: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and check -> state and what was said."""
    done = CliRunner().invoke(app, ["doctor", "--json", *options])
    found = json.loads(done.stdout)
    assert found["ok"] == (done.exit_code == 0)
    return done.exit_code, {each["check"]: (each["state"], f"{each['said']}; {each['mend']}") for each in found["checks"]}


def test_a_laptop_lacks_nothing() -> None:
    code, found = run()
    assert code == 0, found
    assert found["state"][0] == found["store"][0] == "ok"
    assert not Path(doctor.__file__).with_name(".mugv").exists()


def test_every_fault_is_told_at_once_and_none_hides_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUGV_STORE", "s3://mugv/x")
    monkeypatch.setenv("MUGV_S3_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MUGV_S3_ACCESS_KEY", "a")
    monkeypatch.setenv("MUGV_S3_SECRET_KEY", "b")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (tmp_path / "state").write_text("a file")
    began = time.monotonic()
    code, found = run("--endpoint", "http://127.0.0.1:9", "--set", f"align.labels={tmp_path / 'absent.jsonl'}")
    assert code == 2
    assert time.monotonic() - began < 15
    sick = {name: said for name, (state, said) in found.items() if state == "wrong"}
    assert sorted(sick) == ["KFP", "MLflow", "files of the recipe", "state", "store endpoint"]
    assert "does not answer" in sick["KFP"]
    assert "check MUGV_S3_ENDPOINT" in sick["store endpoint"]
    assert "align.labels" in sick["files of the recipe"]


def test_a_pipeline_server_tells_its_version_and_whose_namespace_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with recording_server() as recorder:
        recorder.multi_user = True
        assert "give yours with --namespace" in run("--endpoint", recorder.url)[1]["KFP"][1]
        code, found = run("--endpoint", recorder.url, "--namespace", "team-a")
        assert code == 0
        assert "version 2.15.0, a namespace for each user" in found["KFP"][1]
        recorder.answers["GET", "experiments"] = (403, "application/json", '{"message":"anna may not list in team-a"}')
        code, found = run("--endpoint", recorder.url, "--namespace", "team-a")
        assert (code, found["KFP"][0], found["KFP namespace"][0]) == (2, "ok", "wrong")
        assert "anna may not list in team-a; check --namespace" in found["KFP namespace"][1]


SEARCH = "/api/2.0/mlflow/experiments/search"


@pytest.mark.parametrize(
    ("answers", "check", "why"),
    [
        ({"/version": (200, "3.17.2"), SEARCH: (401, "")}, "MLflow user", "set MLFLOW_TRACKING_USERNAME"),
        ({"/version": (200, "3.17.2"), SEARCH: (500, "")}, "MLflow user", "cannot be read (500)"),
        ({"/version": (200, "<html>log in</html>")}, "MLflow", "does not answer as MLflow does"),
        ({}, "MLflow", "does not answer as MLflow does (404)"),
    ],
)
def test_mlflow_s_refusals_are_told(monkeypatch: pytest.MonkeyPatch, answers: Answers, check: str, why: str) -> None:
    with answering(answers) as (url, _):
        found = {each.check: each for each in services.mlflow(url)}
    assert found[check].state == "wrong"
    assert why in found[check].line()


def test_mlflow_is_asked_as_the_user_and_no_password_belongs_into_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim")
    with answering({"/version": (200, "3.17.2"), SEARCH: (200, "{}")}) as (url, asked):
        assert [each.state for each in services.mlflow(url)] == ["ok", "ok"]
    assert set(asked) == {"Basic YW5uYTpnZWhlaW0="}
    (found,) = services.mlflow("http://anna:geheim@mlflow:5000")
    assert (found.state, "geheim" in found.line(), "secret mugv-mlflow" in found.line()) == ("wrong", False, True)


def kube_config(folder: Path, url: str) -> str:
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}}],
    }
    (folder / "kube").write_text(yaml.safe_dump(tree))
    return str(folder / "kube")


def test_objects_that_the_tasks_name_and_the_cluster_lacks_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = full_recipe()
    names = {"secret": "secrets", "config_map": "configmaps", "persistent_volume_claim": "persistentvolumeclaims"}
    objects = named_objects(recipe, "mugv-pipeline")
    assert objects["config_map", "mugv-store"]
    assert objects["persistent_volume_claim", "mugv-state"]
    assert not objects["secret", "mugv-store"], "a service account with a role needs no keys"

    def at(kind: str, name: str) -> str:
        return f"/api/v1/namespaces/team/{names.get(kind, 'serviceaccounts')}/{name}"

    answers = {at(*key): (200, json.dumps({"metadata": {"name": key[1]}})) for key in objects}
    with answering(answers) as (url, _):
        monkeypatch.setenv("KUBECONFIG", kube_config(tmp_path, url))
        (found,) = cluster(recipe, None, "mugv-pipeline")
        assert found.state == "ok"
        del answers[at("config_map", "mugv-store")], answers[at("secret", "mugv-store")]
        answers[at("persistent_volume_claim", "mugv-state")] = (403, "{}")
        seen = {each.check: each for each in cluster(recipe, None, "mugv-pipeline")}
    assert seen["config map mugv-store"].line().startswith("wrong   config map mugv-store: not in namespace team; apply manifests/")
    assert seen["secret mugv-store"].state == "skipped"
    assert "may not look at it (403)" in seen["volume mugv-state"].said


def test_a_full_volume_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    (found,) = machine.state(tmp_path / "state")
    assert "1.0 GB free" in found.line()
    assert not (tmp_path / "state").exists()


def test_in_a_pod_a_volume_of_one_node_is_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert "ReadWriteMany" in [each.line() for each in machine.state(tmp_path)][-1]
    (found,) = services.store(str(tmp_path), create=False)
    assert "set MUGV_STORE=s3://" in found.line()


def test_an_image_that_the_registry_lacks_is_told() -> None:
    with answering({"/v2/team/data/manifests/0.1": (200, "{}")}) as (url, _):
        host = url.removeprefix("http://")
        recipe = full_recipe(resources={"image_data": f"{host}/team/data:0.1", "image_train": f"{host}/team/train:0.1"})
        data, train = machine.images(recipe)
    assert data.state == "ok"
    assert f"{host}/team/train:0.1: the registry {host} has no such image" in train.line()


def fake_program(folder: Path, text: str) -> str:
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return str(folder)


def test_a_driver_without_a_torch_that_uses_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", fake_program(tmp_path / "good", "echo 'NVIDIA H200, 550.54'"))
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    card, fit = machine.gpu()
    assert card.said == "1 x NVIDIA H200, 550.54"
    assert "built without CUDA" in fit.line()
    monkeypatch.setenv("PATH", fake_program(tmp_path / "bad", "echo 'Driver/library version mismatch'; exit 9"))
    (found,) = machine.gpu()
    assert "Driver/library version mismatch" in found.line()


def test_a_check_that_breaks_or_hangs_is_a_line_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.3)
    free = threading.Event()

    def hangs() -> Iterator[Any]:
        free.wait(5)
        yield ok("slow", "late")

    def breaks() -> Iterator[Any]:
        yield ok("first", "fine")
        raise RuntimeError("at http://anna:geheim@host")

    found = examine({"slow": hangs, "broken": breaks})
    free.set()
    assert [(each.check, each.state) for each in found] == [("slow", "wrong"), ("first", "ok"), ("broken", "wrong")]
    assert "geheim" not in found[2].line()
