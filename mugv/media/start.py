"""Starts the decoder's process (`mugv.media.decoder`) before the first file is known.

Only the standard library's lightest modules are imported here: the decoder loads its libraries while the program loads its own.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"), "1"),
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
"""Of the decoder's process. Memory of one file's pictures is kept for the next: fresh pages cost a short 4K clip 5 % of its time."""


class Child(NamedTuple):
    """A decoder's process, our end of the socket it listens to, and the descriptor of the file its pictures lie in."""

    process: subprocess.Popen[bytes]
    ours: socket.socket
    file: int


_waiting: list[Child] = []


def start_decoder() -> None:
    """Start a process now, so that it is ready when the first file is read."""
    if not _waiting:
        _waiting.append(_start())


def started_decoder() -> Child:
    """The process that waits, or a new one; the caller ends it."""
    return _waiting.pop() if _waiting else _start()


def shared_file() -> int:
    """Descriptor of an empty file that has no name; the caller closes it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pictures")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _start() -> Child:
    file = shared_file()
    ours, theirs = socket.socketpair()
    code = f"from mugv.media.decoder import serve; serve({theirs.fileno()}, {file})"
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}
    with theirs:
        command, passed = [sys.executable, "-c", code], (theirs.fileno(), file)
        process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL, env=environment)
    return Child(process, ours, file)


@atexit.register
def _end() -> None:
    while _waiting:
        _waiting.pop().process.kill()
