"""Processes that end with the one that they work for, and signals that end a run. A run's main process may be killed outright: what it
started must not go on and publish beside the next run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUNNER = "MUGV_RUNNER"
"""Environment variable: id of the process that this one works for."""
LOOK_SECONDS = 1.0


def end_with_runner(number: int = signal.SIGTERM) -> None:
    """From now on this process gets the signal `number` when the process that RUNNER names has ended; nothing without RUNNER."""
    pid = os.environ.get(RUNNER, "")
    if pid.isdigit():
        threading.Thread(target=_watch, args=(int(pid), number), name="runner-watch", daemon=True).start()


def _watch(pid: int, number: int) -> None:
    while alive(pid):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), number)


def alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and whose parent has not asked for its exit code counts as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        if not Path("/proc/self").exists():
            import psutil

            return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        return False
    return state not in "ZXx"


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in the block, once: a second one must not cut the writing of the record."""

    def stop(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
