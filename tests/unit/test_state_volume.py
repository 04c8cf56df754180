"""A state volume that belongs to root, as a provisioner leaves it: the task says whose it is and what to do, and makes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mugv.recipe import recipe_to_json
from mugv.store import check_volume
from tests.unit.pipeline_recipes import minimal_recipe

ROOT = Path(__file__).resolve().parents[2]
USER = 10001


@pytest.fixture
def volume() -> Iterator[Path]:
    """A folder that another user may read and not write."""
    with tempfile.TemporaryDirectory(prefix="volume-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_user(module: str, call: str, volume: Path, recipe: str = "") -> subprocess.CompletedProcess[str]:
    """What `call` of a module prints; the interpreter's own files may be root's alone, so it changes its user once they are read."""
    drop = f"os.setgroups([]); os.setgid({USER}); os.setuid({USER})"
    code = f"import os, pathlib, sys, {module} as m; recipe = sys.stdin.read(); {drop}; {call}"
    environment = {**os.environ, "MUGV_STATE": str(volume)}
    return subprocess.run([sys.executable, "-c", code], input=recipe, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("mugv.stages.execute", "m.component_main('scan', 0, recipe, {}, '/tmp/none')"),
        ("mugv.stages.resolve_data", "m.component_main(recipe, '', '', '', '', '', '')"),
    ],
)
def test_a_task_says_in_one_line_that_its_volume_is_another_user_s(module: str, call: str, volume: Path) -> None:
    done = as_user(module, call, volume, recipe_to_json(minimal_recipe()))
    assert done.returncode == 2, done.stderr
    (line,) = (done.stdout + done.stderr).splitlines()
    assert f"{volume}: user {USER} may not write there, it belongs to 0:0 (mode 755)" in line
    assert f"chown {USER} {volume}" in line
    assert "mugv-state-rights" in line
    assert list(volume.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_a_volume_that_is_the_user_s_or_its_group_s_is_taken(volume: Path) -> None:
    for change in (lambda: os.chown(volume, USER, 0), lambda: os.chown(volume, 0, USER) or os.chmod(volume, 0o2775)):
        change()
        assert as_user("mugv.store", f"m.check_volume(pathlib.Path({str(volume)!r})); print('taken')", volume).stdout == "taken\n"


def test_a_folder_that_is_not_there_yet_is_none_of_its_business(tmp_path: Path) -> None:
    check_volume(tmp_path / "absent")
