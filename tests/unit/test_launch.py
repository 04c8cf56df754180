"""The launcher: what it starts here really runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mugv.errors import UserError
from mugv.platform.launch import LaunchSpec, run_local
from mugv.recipe.schema import Pool

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
PROBE = "launch_probe"


def spec(*arguments: str, **fields: Any) -> LaunchSpec:
    return LaunchSpec(PROBE, arguments, **fields)


def test_two_processes_find_each_other(tmp_path: Path) -> None:
    out = tmp_path / "seen.json"
    assert run_local(spec("end", str(out), processes_per_node=2, environment={"PROBE": "set"}), ENVIRONMENT) == 0
    assert json.loads(out.read_text()) == {"world": 2, "sum": 3, "rank": 0, "variable": "set"}


def test_a_failure_is_not_swallowed(tmp_path: Path) -> None:
    assert run_local(spec("fail", str(tmp_path / "seen.json")), ENVIRONMENT) == 1


def test_an_interrupt_reaches_the_process_once(tmp_path: Path) -> None:
    out = tmp_path / "state"
    program = (
        "import os, sys; from mugv.platform.launch import *; "
        f"sys.exit(run_local(LaunchSpec({PROBE!r}, ('wait', {str(out)!r})), dict(os.environ)))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env=ENVIRONMENT, cwd=ROOT)
    deadline = time.monotonic() + 240
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert out.read_text() == "interrupted"


def test_several_nodes_are_refused_on_one_machine() -> None:
    with pytest.raises(UserError, match="this machine is one node, the recipe's layout needs 64"):
        run_local(spec(nodes=64, processes_per_node=8))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"processes_per_node": 0}, "processes_per_node must be at least 1"),
        ({"processes_per_node": 9, "pool": Pool(gpus=8)}, "9 processes a node do not fit on its 8 GPUs"),
    ],
)
def test_an_impossible_start_is_refused_before_it_costs_anything(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        spec(**fields)
