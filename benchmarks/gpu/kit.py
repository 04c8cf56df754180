"""The wheels that the GPU parts need on a machine that holds Python 3.12 and torch, and nothing else of ours, without network.

    python -m benchmarks.gpu.kit make                downloads them into .gpu-kit as requirements.lock pins them (`make gpu-kit`)
    python -m benchmarks.gpu.kit install TARGET      checks them against requirements.lock, then puts them into a folder (run.sh)

The folder travels beside the tracked files. torch, its CUDA packages and what torch itself requires are never in it; pyarrow and
OpenCV are not either: with them the kit would not fit. tests/unit/test_gpu_kit.py holds what the parts import to this list.
`install` runs before anything is there, so this file needs the standard library alone. A stale kit: one line, exit code 2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".gpu-kit"
MANIFEST = "manifest.json"
PACKAGES = (
    "annotated-types",
    "iniconfig",
    "megatron-core",
    "numpy",
    "packaging",
    "pluggy",
    "psutil",
    "pydantic",
    "pydantic-core",
    "pygments",
    "pytest",
    "pyyaml",
    "regex",
    "safetensors",
    "tqdm",
    "typing-extensions",
    "typing-inspection",
)
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux2010", "manylinux1")
"""pip matches a platform exactly, so the older ones are named too."""
LIMIT = 64 << 20
"""Bytes of the kit and the tracked files together."""


def pins(lock: Path | None = None) -> dict[str, str]:
    """Version of each package of the kit in requirements.lock."""
    lines = ((lock or ROOT / "requirements.lock").read_text()).splitlines()
    found = {_normal(name): version for name, _, version in (line.partition("==") for line in lines)}
    return {name: found[name] for name in PACKAGES}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def make(folder: Path = FOLDER) -> str:
    """Download into `folder`, all or nothing; what was done in one line. SystemExit with one line where it does not fit."""
    if not stale(folder):
        return f"{folder} is what requirements.lock pins already"
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".gpu-kit-") as made:
        subprocess.run(download_command(Path(made)), check=True)
        wheels = sorted(Path(made).glob("*.whl"))
        size, tracked = sum(w.stat().st_size for w in wheels), tracked_bytes()
        if size + tracked > LIMIT:
            raise SystemExit(
                f"error: the kit ({size / 2**20:.1f} MiB) and the tracked files ({tracked / 2**20:.1f} MiB) exceed {LIMIT >> 20} MiB"
            )
        write_manifest(Path(made), pins())
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
    return f"{folder}: {len(wheels)} wheels, {size / 2**20:.1f} MiB; tracked files {tracked / 2**20:.1f} MiB"


def download_command(folder: Path) -> list[str]:
    platforms = [word for p in PLATFORMS for word in ("--platform", f"{p}_x86_64")]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    wanted = [f"{name}=={version}" for name, version in pins().items()]
    return [sys.executable, "-m", "pip", "download", *options, "--python-version", PYTHON, *platforms, "--dest", str(folder), *wanted]


def write_manifest(folder: Path, versions: dict[str, str]) -> None:
    """What the wheels in `folder` are: the pins that they were made from, and the SHA-256 of each."""
    wheels = {path.name: _digest(path) for path in sorted(folder.glob("*.whl"))}
    (folder / MANIFEST).write_text(json.dumps({"python": PYTHON, "pins": versions, "wheels": wheels}, indent=1) + "\n")


def tracked_bytes() -> int:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return sum((ROOT / name).stat().st_size for name in names if name and (ROOT / name).is_file())


def stale(folder: Path) -> str:
    """Why the kit is not what requirements.lock pins, in one line; empty where it is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        made_from, wheels = dict(manifest["pins"]), dict(manifest["wheels"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"there is no GPU kit in {folder}"
    wanted = pins()
    moved = [
        f"{name} {made_from.get(name, 'missing')} (pinned {version})" for name, version in wanted.items() if made_from.get(name) != version
    ]
    moved += [f"{name} (needed no more)" for name in made_from if name not in wanted]
    broken = [
        f"{name} ({'damaged' if (folder / name).is_file() else 'missing'})" for name in wheels if not _holds(folder / name, wheels[name])
    ]
    found = moved + broken
    return f"the GPU kit in {folder} is stale: {', '.join(found)}" if found else ""


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(path) == digest


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def install(folder: Path, target: Path) -> None:
    """Check the kit, then unpack it into `target`. SystemExit 2 after one line on standard error when it cannot be used."""
    reason = stale(folder)
    if reason:
        refuse(f"{reason}; `make gpu-kit` makes it anew")
    wheels = [str(folder / name) for name in json.loads((folder / MANIFEST).read_text())["wheels"]]
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *wheels]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        refuse(f"pip could not install the GPU kit: {(done.stderr.strip() or 'no message').splitlines()[0]}")


def refuse(reason: str) -> None:
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, default=FOLDER)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make")
    commands.add_parser("install").add_argument("target", type=Path)
    given = parser.parse_args()
    if given.command == "make":
        print(make(given.kit))
    else:
        install(given.kit, given.target)


if __name__ == "__main__":
    main()
