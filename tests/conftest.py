"""What libraries leave behind in the process is put back after each test module, so that the order of files does not matter."""

import builtins
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def process_put_back() -> Iterator[None]:
    """MLflow exports its tracking URI into the environment; KFP's local runner leaves `print` indented after a ParallelFor."""
    environment, original = dict(os.environ), builtins.print
    yield
    os.environ.clear()
    os.environ.update(environment)
    builtins.print = original
