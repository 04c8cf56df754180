"""What the tests of pods share: the installed copy, built once, and a namespace with its services for each test that asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launcher import Cluster
from pod import ROOT, Image, missing
from services import Services


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    lacks = missing()
    if lacks:
        pytest.exit(lacks, returncode=2)
    return Image(tmp_path_factory.mktemp("image")).build()


@pytest.fixture
def make_services(tmp_path: Path) -> Iterator[Callable[..., Services]]:
    made: list[Services] = []

    def make(**options: Any) -> Services:
        made.append(Services(tmp_path / "services", **options))
        return made[-1]

    yield make
    for services in made:
        services.stop()


def compiled(recipe: Path, services: Services, output: Path, *options: str) -> Path:
    """The recipe's pipeline, compiled by the command line as on anyone's machine."""
    command = [sys.executable, "-m", "mugv.cli.main", "compile", "--recipe", str(recipe), "-o", str(output), *options]
    done = subprocess.run(command, env={**os.environ, **services.environment()}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def namespace(image: Image, services: Services, folder: Path, **options: Any) -> Cluster:
    """One thread a task: two cores are shared by all."""
    return Cluster(image, folder / "cluster", services.settings(), environment={"OMP_NUM_THREADS": "1"}, **options)
