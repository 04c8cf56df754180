"""Images under test, and the containers that a run in Docker meets: an object store and MLflow on a network of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {pool: f"mugv/{pool}-python:{os.environ.get('TAG', 'test')}" for pool in ("data", "train")}
CONFINED = ("--user", "10001:10001", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
VOLUMES = ("--tmpfs", "/tmp", "--tmpfs", "/home/mugv:uid=10001,gid=10001,mode=0755")
KEYS = {"MUGV_S3_ACCESS_KEY": "images-access", "MUGV_S3_SECRET_KEY": "images-secret"}
BUCKET = "mugv"
STATE_RIGHTS = yaml.safe_load((ROOT / "manifests/base/state-rights.yaml").read_text())["spec"]["template"]["spec"]["containers"][0]
"""The container of the Job that gives a state volume to the images' user."""


def mounted(volume: str) -> str:
    """For --mount: as Kubernetes mounts it. Docker would give an empty volume the owner of the image's folder."""
    return f"type=volume,src={volume},dst=/mugv,volume-nocopy"


def docker(*arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, timeout=600)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done


def in_image(pool: str, code: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Python code as a task runs: the image's user, nothing writable but /tmp and HOME, no network."""
    command = ["run", "--rm", "-i", "--network", "none", *CONFINED, *VOLUMES, *options, IMAGES[pool], "python", "-"]
    return docker(*command, stdin=code, check=check)


@pytest.fixture(scope="session", autouse=True)
def images() -> None:
    absent = [name for name in IMAGES.values() if docker("image", "inspect", name, check=False).returncode]
    if absent:
        pytest.exit(f"image {absent[0]} is not here: make test-images builds it", returncode=2)


@dataclass(frozen=True)
class Network:
    """A Docker network with an object store and MLflow on it, which containers reach by name."""

    name: str
    store: str
    """Address of the object store from this machine."""
    mlflow: str
    """Address of MLflow from this machine."""


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    name = f"mugv-test-{uuid.uuid4().hex[:8]}"
    docker("network", "create", name)
    started: list[str] = []
    try:
        started.append(_object_store(name))
        started.append(_mlflow(name))
        yield Network(name, f"http://{_address(started[0])}:8333", f"http://{_address(started[1])}:5000")
    finally:
        for container in started:
            docker("rm", "-f", "-v", container, check=False)
        docker("network", "rm", name, check=False)


def _start(network: str, name: str, *arguments: str) -> str:
    """A container that others on the network call `name`."""
    options = ["-d", "--network", network, "--network-alias", name, *CONFINED, *VOLUMES]
    return docker("run", *options, *arguments).stdout.strip()


def _address(container: str) -> str:
    return docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container).stdout.strip()


def _object_store(network: str) -> str:
    """rclone's S3 server; the program is this machine's, the image has none."""
    program = Path(sys.executable).with_name("rclone").resolve()
    serve = f"mkdir -p /tmp/s3/{BUCKET} && exec /rclone serve s3 --addr :8333 --auth-key {','.join(KEYS.values())} /tmp/s3"
    container = _start(network, "object-store", "-v", f"{program}:/rclone:ro", IMAGES["data"], "sh", "-c", serve)
    _until(container, lambda: "Starting s3 server" in docker("logs", container, check=False).stderr)
    return container


def mlflow_arguments() -> list[str]:
    """The server's own command line in manifests/base."""
    deployment = next(d for d in yaml.safe_load_all((ROOT / "manifests/base/mlflow.yaml").read_text()) if d["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return [*container["command"], *container["args"]]


def _mlflow(network: str) -> str:
    settings = {
        "AWS_ACCESS_KEY_ID": KEYS["MUGV_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": KEYS["MUGV_S3_SECRET_KEY"],
        "MLFLOW_S3_ENDPOINT_URL": "http://object-store:8333",
    }
    lines = (ROOT / "manifests/base/mlflow.env").read_text().split()
    variables = [part for line in [*lines, *(f"{k}={v}" for k, v in settings.items())] for part in ("-e", line)]
    database = ("--tmpfs", "/mlflow:uid=10001,gid=10001")
    container = _start(network, "mlflow", *database, *variables, IMAGES["data"], *mlflow_arguments())
    _until(container, lambda: "Application startup complete" in docker("logs", container, check=False).stderr)
    return container


def _until(container: str, ready: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        running = docker("inspect", "-f", "{{.State.Running}}", container).stdout.strip() == "true"
        said = docker("logs", container, check=False)
        assert running, f"{said.stdout}\n{said.stderr}"
        assert time.monotonic() < deadline, f"{said.stdout}\n{said.stderr}"
        time.sleep(0.5)


def as_root(volume: str, container: dict[str, Any]) -> None:
    """Run a container of the manifests, with the rights that it has there, on a volume that belongs to root."""
    security = container["securityContext"]
    rights = [part for right in security["capabilities"]["add"] for part in ("--cap-add", right)]
    user = ["--user", str(security["runAsUser"]), "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    docker("run", "--rm", *user, *rights, "--mount", mounted(volume), IMAGES["data"], *container["command"])


@pytest.fixture
def state_volume() -> Iterator[str]:
    """A new volume, after the Job of the manifests."""
    name = f"mugv-state-{uuid.uuid4().hex[:8]}"
    docker("volume", "create", name)
    as_root(name, STATE_RIGHTS)
    yield name
    docker("volume", "rm", "-f", name)
