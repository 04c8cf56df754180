"""Runs a command that needs a Docker daemon: with the one that answers, else with one of its own, which ends with the command.

    python images/daemon.py COMMAND...

A daemon of its own keeps its images in build/docker, so that the next call finds them. Starting one needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 60.0


def needed(program: str, package: str) -> None:
    """Install a Debian package where `program` is absent. Raises SystemExit with one line where that cannot be done."""
    if shutil.which(program):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise SystemExit(f"{program} is missing: install {package} (Debian's name), or run this as root on Debian")
    print(f"{program} is missing: installing {package}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", package]):
        done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{program} is missing and {package} cannot be installed: {done.stderr.strip().splitlines()[-1]}")


def answers() -> bool:
    """A Docker daemon answers where DOCKER_HOST, or its default, says."""
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


@contextmanager
def daemon() -> Iterator[None]:
    """A Docker daemon that the environment points to, for the time of the block."""
    if answers():
        yield
        return
    needed("dockerd", "docker.io")
    with tempfile.TemporaryDirectory(prefix="dockerd-") as folder, open(f"{folder}/log", "w") as log:
        os.environ["DOCKER_HOST"] = f"unix://{folder}/socket"
        places = ["--data-root", str(ROOT / "build" / "docker"), "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
        process = subprocess.Popen(["dockerd", *places, "--host", os.environ["DOCKER_HOST"]], stdout=log, stderr=log)
        try:
            _wait(process, Path(log.name))
            yield
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            last = (log.read_text().strip().splitlines() or ["nothing was said"])[-1]
            raise SystemExit(f"no Docker daemon answers and none can be started here: {last}")
        time.sleep(0.2)


def main(command: list[str]) -> int:
    if not command:
        raise SystemExit("usage: python images/daemon.py COMMAND...")
    with daemon():
        return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
