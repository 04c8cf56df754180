"""The GPU kit: a stale one never reaches the GPU machine's clock, and it holds nothing that does not fit or install there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu import kit


def hollow_kit(folder: Path) -> Path:
    """A kit as pinned whose wheels hold their metadata alone: what they would install is what this environment has already."""
    folder.mkdir()
    for name, version in kit.pins().items():
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: mugv\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{stem}.dist-info/RECORD", "")
    kit.write_manifest(folder, kit.pins())
    return folder


def run(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MUGV_GPU_KIT": str(folder), "OUT": str(out), "PYTHON": sys.executable}
    command = ["bash", str(kit.ROOT / "benchmarks/gpu/run.sh"), "--rehearse"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def older_pin(folder: Path) -> str:
    manifest = json.loads((folder / kit.MANIFEST).read_text())
    manifest["pins"]["numpy"] = "1.0"
    (folder / kit.MANIFEST).write_text(json.dumps(manifest))
    return f"is stale: numpy 1.0 (pinned {kit.pins()['numpy']})"


def lost_wheel(folder: Path) -> str:
    wheel = next(folder.glob("pydantic-*.whl"))
    wheel.unlink()
    return f"is stale: {wheel.name} (missing)"


def cut_wheel(folder: Path) -> str:
    wheel = next(folder.glob("pyyaml-*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-1])
    return f"is stale: {wheel.name} (damaged)"


def no_manifest(folder: Path) -> str:
    (folder / kit.MANIFEST).unlink()
    return "there is no GPU kit in"


@pytest.mark.parametrize("spoil", [older_pin, lost_wheel, cut_wheel, no_manifest])
def test_stale_kit_wastes_no_time_of_a_gpu(tmp_path: Path, spoil) -> None:
    reason = spoil(hollow_kit(tmp_path / "kit"))
    done = run(tmp_path / "kit", tmp_path / "out")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("; `make gpu-kit` makes it anew")
    assert reason in line
    assert not (tmp_path / "out").exists()


def test_fresh_kit_is_not_called_stale(tmp_path: Path) -> None:
    assert kit.stale(hollow_kit(tmp_path / "kit")) == ""


@pytest.mark.parametrize("given", ["vea", "vae=soon", "--help"])
def test_misspelt_part_does_not_run_all(tmp_path: Path, given: str) -> None:
    done = subprocess.run(["bash", str(kit.ROOT / "benchmarks/gpu/run.sh"), given], capture_output=True, text=True, timeout=20)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert given in done.stderr


def test_kit_that_cannot_travel_is_refused_and_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = hollow_kit(tmp_path / "kit")
    older_pin(old)
    wheel = next(old.glob("numpy-*.whl"))
    monkeypatch.setattr(kit, "ROOT", tmp_path)
    monkeypatch.setattr(kit, "pins", lambda: {"numpy": "2"})
    monkeypatch.setattr(kit, "download_command", lambda folder: ["cp", str(wheel), str(folder)])
    monkeypatch.setattr(kit, "tracked_bytes", lambda: kit.LIMIT - wheel.stat().st_size + 1)
    with pytest.raises(SystemExit, match=r"^error: the kit \(0.0 MiB\) and the tracked files \(64.0 MiB\) exceed 64 MiB$"):
        kit.make(old)
    assert wheel.exists()
    monkeypatch.setattr(kit, "tracked_bytes", lambda: kit.LIMIT - wheel.stat().st_size)
    assert "1 wheels" in kit.make(old)
    assert kit.stale(old) == ""


def test_kit_never_holds_torch_or_another_system_s_wheels() -> None:
    assert not [name for name in kit.PACKAGES if name.startswith(("torch", "nvidia", "triton"))]
    command = kit.download_command(Path("x"))
    assert command[command.index("--python-version") + 1] == "3.12"
    assert all(word.startswith("manylinux") and word.endswith("x86_64") for word in command if "linux" in word)
    assert "--only-binary=:all:" in command
    assert "--no-deps" in command


def test_kit_travels_but_is_never_committed() -> None:
    ignored = subprocess.run(["git", "check-ignore", "-q", ".gpu-kit/x.whl"], cwd=kit.ROOT)
    assert ignored.returncode == 0
