"""What a disk that cannot be written, or reads badly, is called: one line with the place and what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mugv.errors import ServiceAwayError, StoreError, UserError

_HINTS = {
    errno.ENOSPC: "free some space and run again; finished stages are kept",
    errno.EDQUOT: "free some of the quota and run again; finished stages are kept",
    errno.EFBIG: "the file system or a limit (ulimit -f) takes no file of that size; give another folder with --state",
    errno.EROFS: "the file system is read-only; give a writable folder with --state",
    errno.EACCES: "check its permissions, or give another folder with --state",
    errno.EPERM: "check its permissions, or give another folder with --state",
    errno.EIO: "the disk reports an error; check it, or give another folder with --state",
    errno.ESTALE: "the volume was lost; run again when it is back",
    errno.ENOTCONN: "the volume was lost; run again when it is back",
    errno.ETIMEDOUT: "the volume does not answer; run again when it is back",
    errno.EHOSTDOWN: "the volume does not answer; run again when it is back",
    errno.EREMOTEIO: "the volume's server reports an error; run again when it is well",
}
_LASTING = frozenset({errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
"""What no later try finds otherwise. A full or a lost volume it may."""
_CODE = re.compile(r"Os \{ code: (\d+)")
"""How safetensors (Rust) writes the system's error number; Arrow and PyAV raise OSError."""
_TORCH_WRITES = ("iostream error", "PytorchStreamWriter failed", "unexpected pos ")
"""What torch says when a file that it writes ends early; the system's own reason is lost."""


def check_volume(folder: Path) -> None:
    """Raises UserError where this process may not write into a folder that is there, as on a new volume that belongs to root."""
    if not folder.is_dir() or os.access(folder, os.W_OK | os.X_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY:
        return
    owner, user = folder.stat(), os.geteuid()
    raise UserError(
        f"{folder}: user {user} may not write there, it belongs to {owner.st_uid}:{owner.st_gid} (mode {owner.st_mode & 0o7777:o}); on a"
        f" cluster apply the Job mugv-state-rights of manifests/base, else chown {user} {folder}"
    )


@contextmanager
def explained(where: Path | str) -> Iterator[None]:
    """Turn a disk that is full, read-only, forbidden or failing into one line that says so; other errors pass.

    Raises StoreError, and ServiceAwayError for what may pass: a full, a lost or a failing volume.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        problem = disk_problem(error, where)
        if problem is None:
            raise
        raise problem from error


def disk_problem(error: BaseException, where: Path | str) -> StoreError | None:
    """What an error that a disk caused is called, however the library that met it wraps it; None for any other error."""
    for inner in _inside(error):
        number = inner.errno if isinstance(inner, OSError) else _number(inner)
        if number in _HINTS:
            name = getattr(inner, "filename", None) or where
            return (StoreError if number in _LASTING else ServiceAwayError)(f"{os.fsdecode(name)}: {os.strerror(number)}; {_HINTS[number]}")
        if isinstance(inner, RuntimeError) and any(words in str(inner) for words in _TORCH_WRITES):
            return ServiceAwayError(f"{where}: a file could not be written whole (disk full, or over a quota); {_HINTS[errno.ENOSPC]}")
    return None


def _inside(error: BaseException) -> Iterator[BaseException]:
    """The error, those of its ranks (torch's CheckpointException has a table of them), and what they were raised from."""
    waiting, seen = [error], set()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        failures = getattr(found, "failures", None)
        ranks = [entry[0] if isinstance(entry, tuple) else entry for entry in failures.values()] if isinstance(failures, dict) else []
        waiting += [e for e in (*ranks, found.__cause__) if isinstance(e, BaseException)]


def _number(error: BaseException) -> int:
    """The system's error number in the words of a library that has lost the exception; 0: none."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return 0
    found = _CODE.search(str(error))
    return int(found.group(1)) if found else 0
