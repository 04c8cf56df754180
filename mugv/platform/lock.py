"""Advisory locks that the system drops when the process ends, however it ends: one run a state folder, one process a stage."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mugv.errors import UserError
from mugv.store import explained


@contextmanager
def state_lock(state: Path) -> Iterator[None]:
    """Hold a state folder. Raises UserError when another run holds it, StoreError when the folder cannot be written."""
    with file_lock(state / "lock", f"state folder {state}: a run is going on there (process {{}}); wait for it or give another --state"):
        yield


@contextmanager
def _a_folder(folder: Path, option: str) -> Iterator[None]:
    """One line where a file is in the way of a folder."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise UserError(f"{folder}: cannot be a folder, a file is in the way; give another one with {option}") from None
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT):
            raise
        raise UserError(f"{folder}: cannot be made ({error.strerror}); give another one with {option}") from None


@contextmanager
def file_lock(path: Path, refusal: str, option: str = "--state") -> Iterator[None]:
    """Hold `path`, which then has this process's id in it. `refusal`: the message when another process (`{}`) holds it. `option`: what
    names another folder where this one cannot be made."""
    with explained(path), _a_folder(path.parent, option):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal.format(path.read_text(errors="replace").strip() or "unknown")) from None
        with explained(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        # Closing drops the lock. The file stays: removing it would let two processes lock two files of one name.
        os.close(descriptor)
