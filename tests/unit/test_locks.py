"""The locks of the images: taken from requirements.lock, fresh, and without what only a laptop or a developer needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images import locks

ROOT = Path(__file__).resolve().parents[2]
DATA_STAGES = ("sample_footage", "scan", "curate_shard", "caption", "curate", "register", "resolve_data")


def names(image: str) -> set[str]:
    return set(locks.pins(locks.path(image).read_text()))


def test_a_change_of_the_lock_reaches_the_images() -> None:
    assert locks.stale() == [], "make lock"


def test_a_stale_lock_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(locks, "image_lock", lambda image: "numpy==1.0\n")
    assert locks.main(["check"]) == 1
    assert capsys.readouterr().out.splitlines() == ["images/data.lock is stale: make lock", "images/train.lock is stale: make lock"]


@pytest.mark.parametrize("image", sorted(locks.IMAGES))
def test_an_image_has_the_locked_versions_and_no_development_tools(image: str) -> None:
    locked = locks.pins((ROOT / "requirements.lock").read_text())
    for name, line in locks.pins(locks.path(image).read_text()).items():
        assert locked[name] == line
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tools = {canonicalize_name(Requirement(r).name) for r in project["optional-dependencies"]["dev"]}
    assert not names(image) & tools


def test_the_data_image_is_not_made_large_by_torch() -> None:
    assert not names("data") & {"torch", "transformers", "megatron-core", "safetensors", "sympy"}
    assert {"torch", "megatron-core", "transformers", "safetensors", "regex"} <= names("train")
    assert names("data") < names("train")


def test_freezing_keeps_setuptools_and_names_no_build_of_torch() -> None:
    frozen = locks.pins(locks.freeze())
    assert frozen["setuptools"] == f"setuptools=={metadata.version('setuptools')}"
    assert frozen["torch"] == f"torch=={metadata.version('torch').partition('+')[0]}"
    assert not {"mugv", "pip"} & set(frozen)
    assert set(frozen) >= set(locks.pins((ROOT / "requirements.lock").read_text()))


def test_a_line_that_is_no_pin_is_refused() -> None:
    for line in ("numpy>=1", "mugv @ file:///x", "-e .", "a==1 ; python_version<'4'"):
        with pytest.raises(ValueError, match="lines `name==version` only"):
            locks.pins(line)


def test_no_data_stage_imports_what_its_image_does_not_have() -> None:
    absent = sorted(names("train") - names("data"))
    modules = [*(f"mugv.stages.{stage}" for stage in DATA_STAGES), "mugv.platform.registry", "mugv.platform.video_model", "mugv.cli.main"]
    code = f"""
import importlib, sys
for name in {[n.replace("-", "_") for n in absent]} + ["megatron"]:
    sys.modules[name] = None
for module in {modules}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
