"""A namespace for tests and figures: compiling for it, and its volumes and settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from launcher import Cluster
from pod import ROOT, Image
from services import Services


def compiled(recipe: Path, services: Services, output: Path, *options: str) -> Path:
    """The recipe's pipeline, compiled by the command line as on anyone's machine."""
    command = [sys.executable, "-m", "mugv.cli.main", "compile", "--recipe", str(recipe), "-o", str(output), *options]
    done = subprocess.run(command, env={**os.environ, **services.environment()}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def namespace(image: Image, services: Services, folder: Path, **options: Any) -> Cluster:
    """One thread a task: two cores are shared by all."""
    return Cluster(image, folder / "cluster", services.settings(), environment={"OMP_NUM_THREADS": "1"}, **options)
