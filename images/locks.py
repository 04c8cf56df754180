"""The lock of each image, taken from requirements.lock: what an image's packages need, and nothing of the tools beside them.

python images/locks.py            writes images/data.lock and images/train.lock (`make lock` does both steps)
python images/locks.py freeze     writes requirements.lock from the installed packages first
python images/locks.py check      says which lock is stale; exit code 1 when one is
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "requirements.lock"
IMAGES: dict[str, tuple[str, ...]] = {"data": (), "train": ("train",)}
"""Image -> extras of pyproject.toml that it has beside the project's own dependencies."""
STAND_INS = {"opencv-python": "opencv-python-headless"}
"""A package that others ask for -> the locked one that brings the same modules."""
INSTALLERS = {"pip"}
"""Packages of every virtual environment that no lock names."""


def pins(text: str) -> dict[str, str]:
    """Canonical name -> line `name==version` of a lock. Raises ValueError for a line of another form."""
    found = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, separator, version = line.partition("==")
        if not separator or " " in line:
            raise ValueError(f"{line!r}: a lock has lines `name==version` only")
        found[canonicalize_name(name)] = f"{name}=={version}"
    return found


def freeze() -> str:
    """requirements.lock for the packages that are installed here, setuptools with them.

    A local version such as torch's `+cpu` says where a file came from: it is left out, so that the lock holds for any index.
    """
    found = {}
    for package in metadata.distributions():
        name = canonicalize_name(package.name)
        if name not in INSTALLERS and not _editable(package):
            found[name] = f"{package.name}=={package.version.partition('+')[0]}"
    return "".join(f"{line}\n" for line in sorted(found.values(), key=str.lower))


def _editable(package: metadata.Distribution) -> bool:
    return '"editable": true' in (package.read_text("direct_url.json") or "")


def closure(roots: list[str]) -> set[str]:
    """Canonical names of all packages that the requirements need on this platform. Raises PackageNotFoundError for one not installed."""
    waiting = [Requirement(root) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        name, extras = STAND_INS.get(name, name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        needs = map(Requirement, metadata.distribution(name).requires or [])
        waiting += [need for need in needs if _applies(need, extras)]
    return {name for name, _ in seen}


def _applies(need: Requirement, extras: frozenset[str]) -> bool:
    return need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras or {""})


def image_lock(image: str) -> str:
    """The lines of requirements.lock that an image installs. Raises KeyError for a needed package that is not locked."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roots = list(project["dependencies"])
    for extra in IMAGES[image]:
        roots += project["optional-dependencies"][extra]
    locked = pins(SOURCE.read_text())
    # The image builds mugv itself without reaching an index.
    return "".join(f"{locked[name]}\n" for name in sorted(closure([*roots, "setuptools"])))


def stale() -> list[str]:
    """Names of the images whose lock is not what requirements.lock gives."""
    return [image for image in IMAGES if not path(image).is_file() or path(image).read_text() != image_lock(image)]


def path(image: str) -> Path:
    return ROOT / "images" / f"{image}.lock"


def main(arguments: list[str]) -> int:
    if arguments == ["check"]:
        for image in (found := stale()):
            print(f"{path(image).relative_to(ROOT)} is stale: make lock")
        return 1 if found else 0
    if arguments == ["freeze"]:
        SOURCE.write_text(freeze())
    for image in IMAGES:
        path(image).write_text(image_lock(image))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
