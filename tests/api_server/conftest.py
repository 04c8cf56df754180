"""One API server for all tests of this folder, with the definitions of `crds/` and the objects of our manifests."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from server import BINARY, ROOT, Front, kubeconfig, running

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not BINARY.exists():
        pytest.skip(f"{BINARY} is absent: `make test-api-server` builds it (root, five minutes)")
    with running(tmp_path_factory.mktemp("api-server")) as found:
        yield found


@pytest.fixture(scope="session")
def as_user(url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Token -> kubeconfig."""
    folder = tmp_path_factory.mktemp("kubeconfigs")
    return lambda token: kubeconfig(folder / f"{token}.yaml", url, token)


@pytest.fixture(scope="session")
def admin(as_user: Any) -> client.ApiClient:
    return config.new_client_from_config(str(as_user("admin")))


@pytest.fixture(scope="session")
def objects(admin: client.ApiClient) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(admin)


@pytest.fixture(scope="session")
def defined(admin: client.ApiClient, objects: client.CustomObjectsApi) -> None:
    """The definitions, served."""
    api = client.ApiextensionsV1Api(admin)
    found = [crd for path in sorted((HERE / "crds").glob("*.yaml")) for crd in yaml.safe_load(path.read_text())["crds"]]
    for crd in found:
        api.create_custom_resource_definition(crd)
    until = time.monotonic() + 60
    for crd in found:
        while not _served(objects, crd["spec"]):
            assert time.monotonic() < until, f"{crd['metadata']['name']} is not served"
            time.sleep(0.05)


def _served(objects: client.CustomObjectsApi, spec: dict[str, Any]) -> bool:
    """A definition is established a moment before its objects can be listed, and listed before they can be watched."""
    where = (spec["group"], spec["versions"][0]["name"], spec["names"]["plural"])
    try:
        objects.list_cluster_custom_object(*where, watch=True, timeout_seconds=1, _preload_content=False).release_conn()
    except client.ApiException:
        return False
    return True


@pytest.fixture(scope="session")
def manifests() -> list[dict[str, Any]]:
    """The objects of the GPU overlays, as kustomize renders them."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "manifests/overlays/gpu-cluster")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(autouse=True)
def quiet_kubelet() -> Iterator[None]:
    """No pods, logs or events are left over from another test."""
    Front.pods, Front.logs, Front.events, Front.down = {}, {}, [], False
    yield
    Front.down = False
