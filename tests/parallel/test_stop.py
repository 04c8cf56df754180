"""SIGTERM under the launcher: two ranks stop after the same step, save, and the next try has the losses of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def two_ranks(folder: Path, names: str, ask_at: int) -> int:
    command = [sys.executable, "-m", "mugv.ranks", "--nproc", "2", "-m", "stop_worker", str(folder), names, str(ask_at)]
    variables = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}"}
    return subprocess.run(command, env=variables, timeout=900).returncode


def test_stopped_ranks_save_and_the_next_try_goes_on_bit_for_bit(tmp_path):
    assert two_ranks(tmp_path, "asynchronous", 3) == 143
    assert [path.name for path in (tmp_path / "asynchronous").glob("*-*")] == ["step-00000003"]
    assert two_ranks(tmp_path, "asynchronous,whole", 0) == 0
    stopped, whole = ([json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").open()] for run in ("asynchronous", "whole"))
    assert len(whole) == 8
    assert stopped == whole
