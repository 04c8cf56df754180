"""What the tests of pods share: the installed copy, built once, and a namespace with its services for each test that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pod import Image, missing
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
