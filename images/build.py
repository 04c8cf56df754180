"""Builds both images: `make images`. Where no registry can be reached, on a Debian base that is bootstrapped here.

    python images/build.py [data|train ...]

BASE            base image; default python:3.11-slim-bookworm
TAG             tag of mugv/data-python and mugv/train-python; default the commit, with `-dirty` where files differ from it
TORCH, EXTRAS   build arguments of images/Containerfile, for CUDA

On a bootstrapped base this machine's pip, with its own settings and certificates, downloads the packages; they reach the build as files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from daemon import needed
from locks import IMAGES, path, stale

ROOT = Path(__file__).resolve().parents[1]
BASE = "python:3.11-slim-bookworm"
BOOTSTRAPPED = "mugv/base:bookworm"
WHEELS = ROOT / "build" / "wheels"
PACKAGES = "python3,python3-venv,ca-certificates"
UNREAD = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")
"""Folders of a bootstrapped base that no container reads."""


def run(*command: str, **options: object) -> None:
    """Raises SystemExit with the command when it fails."""
    if code := subprocess.run(command, cwd=ROOT, **options).returncode:  # type: ignore[call-overload]
        raise SystemExit(f"{' '.join(command[:6])} ...: exit code {code}")


def quiet(*command: str) -> str | None:
    """What a command prints; None when it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def bases() -> tuple[str, str]:
    """(BASE, BUILD_BASE): the wished base when it is here or can be pulled, else a bootstrapped one and one with all wheels on it."""
    wished = os.environ.get("BASE", BASE)
    if quiet("docker", "image", "inspect", wished) is not None or quiet("docker", "pull", wished) is not None:
        return wished, wished
    if wished != BASE:
        raise SystemExit(f"BASE={wished}: is neither here nor in a registry that can be reached")
    print(f"{wished} cannot be pulled: bootstrapping a base from Debian's packages", flush=True)
    if quiet("docker", "image", "inspect", BOOTSTRAPPED) is None:
        bootstrap()
    return BOOTSTRAPPED, with_wheels()


def bootstrap() -> None:
    """A Debian with Python 3.11 as a Docker image."""
    needed("debootstrap", "debootstrap")
    with tempfile.TemporaryDirectory(prefix="mugv-base-") as folder:
        root = Path(folder) / "root"
        run(
            "debootstrap",
            "--variant=minbase",
            "--include=python3,python3-venv,ca-certificates",
            "bookworm",
            str(root),
            stdout=subprocess.DEVNULL,
        )
        for unread in UNREAD:
            shutil.rmtree(root / unread)
            (root / unread).mkdir()
        archive = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        run("docker", "import", "-", BOOTSTRAPPED, stdin=archive.stdout)
        if archive.wait():
            raise SystemExit(f"tar of {root}: exit code {archive.returncode}")


def with_wheels() -> str:
    """The bootstrapped base with every locked package as a file, which is all that pip then looks at."""
    lock = path("train").read_bytes()
    tag = f"mugv/build-base:{hashlib.sha256(lock).hexdigest()[:12]}"
    if quiet("docker", "image", "inspect", tag) is not None:
        return tag
    shutil.rmtree(WHEELS, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-r", str(path("train")), "-w", str(WHEELS / "files"))
    settings = "[global]\\nno-index = true\\nfind-links = /wheels\\n"
    (WHEELS / "Containerfile").write_text(f"FROM {BOOTSTRAPPED}\nCOPY files /wheels\nRUN printf '{settings}' > /etc/pip.conf\n")
    run("docker", "build", "-q", "-t", tag, "-f", str(WHEELS / "Containerfile"), str(WHEELS))
    shutil.rmtree(WHEELS)
    return tag


def revision() -> tuple[str, str]:
    """(commit, tag) of the source; the commit of files that differ from it is not claimed."""
    commit = quiet("git", "rev-parse", "HEAD")
    if not commit:
        return "unknown", "dev"
    dirty = "-dirty" if quiet("git", "status", "--porcelain", "--untracked-files=no") else ""
    return commit + dirty, commit[:12] + dirty


def main(images: list[str]) -> int:
    if found := stale():
        raise SystemExit(f"images/{found[0]}.lock is stale: make lock")
    os.environ.setdefault("DOCKER_BUILDKIT", "0" if quiet("docker", "buildx", "version") is None else "1")
    base, build_base = bases()
    commit, tag = revision()
    for image in images or list(IMAGES):
        name = f"mugv/{image}-python:{os.environ.get('TAG', tag)}"
        settings = {"IMAGE": image, "BASE": base, "BUILD_BASE": build_base, "REVISION": commit}
        settings |= {key: os.environ[key] for key in ("TORCH", "EXTRAS") if os.environ.get(key)}
        arguments = [part for key, value in settings.items() for part in ("--build-arg", f"{key}={value}")]
        run("docker", "build", "-q", "-f", "images/Containerfile", *arguments, "-t", name, ".")
        size = int(quiet("docker", "image", "inspect", "-f", "{{.Size}}", name) or 0)
        print(f"{name}: {size / 1e9:.2f} GB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
