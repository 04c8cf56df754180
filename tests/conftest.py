"""What all tests share: one thread a process, the longest files first, and what libraries leave behind put back."""

import builtins
import logging
import os
from collections.abc import Iterator

# Before torch is imported. The networks of the tests are tiny: two threads wait for each other longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

LONGEST = (
    "tests/pipeline/test_whole_run.py",
    "tests/platform/test_mlflow_run.py",
    "tests/parallel/test_layouts.py",
    "tests/platform/test_kfp_local_pipelines.py",
    "tests/parallel/",
    "tests/platform/",
)
"""Where two processes share the files, a long one must not be left for the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first; otherwise in the order found."""
    rank = {item: next((i for i, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST)) for item in items}
    items.sort(key=rank.__getitem__)


@pytest.fixture(autouse=True, scope="module")
def process_put_back() -> Iterator[None]:
    """MLflow exports its tracking URI into the environment; KFP's local runner leaves `print` indented after a ParallelFor; a task's
    body called here leaves a log handler on a stream that is closed by then."""
    environment, original, handlers = dict(os.environ), builtins.print, list(logging.root.handlers)
    yield
    for handler in [h for h in logging.root.handlers if type(h) is logging.StreamHandler and h not in handlers]:
        logging.root.removeHandler(handler)
    os.environ.clear()
    os.environ.update(environment)
    builtins.print = original
