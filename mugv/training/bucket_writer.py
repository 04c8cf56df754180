"""Writes the buckets of a checkpoint from threads of the process that is asked to, in place of megatron's forked processes.

CPython 3.11 can lock up in a process that is forked while another thread begins or ends, and megatron starts a queue's thread right before
its forks: a training that waits for ever. Threads write as fast, since the disk does, and a small checkpoint needs no processes.
"""

from __future__ import annotations

import gc
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync


def by_threads(request: AsyncRequest) -> AsyncRequest:
    """The same write without processes of its own."""
    if request.async_fn is None:
        return request
    assert isinstance(request.async_fn, partial), request.async_fn
    return request._replace(async_fn=partial(write_buckets, request.async_fn.args[0]))


def write_buckets(transforms: list[Any], rank: int, buckets: list[Any], results: Any) -> None:
    """Write each bucket to its file, on the disk; puts {number: what was written where}, or the first error, into `results`."""
    outcomes: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    left: queue.Queue[int] = queue.Queue()
    write = partial(FileSystemWriterAsync.write_preloaded_data, transforms, results_queue=outcomes, count_queue=left, use_fsync=True)
    with _no_collection(), ThreadPoolExecutor(max(1, len(buckets))) as pool:
        for number in range(len(buckets)):
            left.put(number)
        for written in [pool.submit(write, local_proc_idx=number, write_bucket=bucket) for number, bucket in enumerate(buckets)]:
            written.result()
    found = dict(outcomes.get() for _ in buckets)
    errors = [outcome for outcome in found.values() if isinstance(outcome, Exception)]
    results.put(errors[0] if errors else found)


@contextmanager
def _no_collection() -> Iterator[None]:
    """In a forked process collecting would free the parent's CUDA tensors."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()
