"""The micro recipe's compiled pipeline, whole, one pod at a time: what a Kubeflow user meets on the first day."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from launcher import Cluster
from place import compiled, namespace
from pod import ROOT, Image, Pod
from services import Services

RECIPE = ROOT / "tests/pipeline/micro.yaml"


@pytest.fixture(scope="module")
def whole(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    services = Services(folder / "services")
    try:
        pipeline = compiled(RECIPE, services, folder / "pipeline.yaml")
        cluster = namespace(image, services, folder)
        cluster.start(pipeline)
        yield cluster, services
    finally:
        services.stop()


def test_every_task_ends_well_in_its_first_pod(whole: tuple[Cluster, Services]) -> None:
    cluster, _ = whole
    assert {work.name: code for work, _, code in cluster.pods if code} == {}
    assert len(cluster.pods) >= 16


def test_a_version_is_registered_with_the_server(whole: tuple[Cluster, Services]) -> None:
    from mlflow import MlflowClient

    _, services = whole
    assert services.tracking is not None
    found = MlflowClient(services.tracking.uri, registry_uri=services.tracking.uri).search_model_versions("name='micro'")
    assert [version.version for version in found] in (["1"], [1])


def test_outputs_lie_in_the_bucket_and_nothing_half_done_on_the_volume(whole: tuple[Cluster, Services]) -> None:
    cluster, services = whole
    manifests = [json.loads(p.read_text()) for p in (services.store.root / "mugv").rglob("manifest.json")]
    assert len(manifests) >= 16
    assert list((cluster.volumes["mugv-state"] / "work").iterdir()) == []


def test_second_run_of_the_same_finds_everything_in_the_store(whole: tuple[Cluster, Services], tmp_path: Path, image: Image) -> None:
    first, services = whole
    cluster = namespace(image, services, tmp_path, run="run-2", volumes=dict(first.volumes))
    cluster.start(compiled(RECIPE, services, tmp_path / "pipeline.yaml"))
    records = (first.volumes["mugv-state"] / "runs" / "run-2" / "stages").glob("*.json")
    assert {json.loads(p.read_text())["status"] for p in records} <= {"hit", "not needed"}


def test_pod_has_nothing_but_its_image_and_may_write_nowhere_else(image: Image, tmp_path: Path) -> None:
    environment = image.environment()

    def run(script: str) -> str:
        pod = Pod(image, ["sh", "-c", script], environment, {}, tmp_path / hashlib.sha256(script.encode()).hexdigest()[:8]).start()
        pod.wait(60)
        return pod.text()

    assert run("id -u; echo $$").split() == ["10001", "1"]
    assert run(f"ls {ROOT}/mugv {ROOT}/tests").count("No such file") == 2
    for place in ("/x", "/usr/x", "/opt/app/x", "/etc/x"):
        assert "Read-only file system" in run(f"touch {place}")
    assert run('python3 -c "import mugv, os; print(mugv.__file__, os.getuid())"').split() == ["/opt/app/mugv/__init__.py", "10001"]
