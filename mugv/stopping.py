"""A request to stop, kept until the work reaches a point where it can: SIGTERM (a preemption, a time limit) and SIGINT (Ctrl-C).

A training asks after each step, writes its checkpoint and ends; see mugv.training.loop. Standard library only.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_received = 0


def requested() -> int:
    """Number of the signal that asked this process to stop; 0: none did."""
    return _received


def listen() -> None:
    """From now on the signals only leave their request."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _note)


def _note(number: int, frame: object) -> None:
    global _received
    _received = _received or number


@contextmanager
def deferred() -> Iterator[None]:
    """While the block runs the signals only leave their request. One that a block which ends well has not heeded is raised after it.

    Outside of the main thread, which alone gets signals, and where `listen` was called, nothing changes.
    """
    global _received
    threaded = threading.current_thread() is not threading.main_thread()
    if threaded or signal.getsignal(signal.SIGTERM) is _note:
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    listen()
    late = 0
    try:
        yield
        late = _received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received = 0
    if late:
        signal.raise_signal(late)
