"""Files that survive a power cut: written beside their place, synced to the disk, renamed in one step. Standard library only."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from pathlib import Path

ABANDONED_SECONDS = 24 * 3600.0


def beside(path: Path) -> Path:
    """A hidden name in the folder of `path` that nobody else has. Process ids are equal in containers that share a volume."""
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")


def sweep(folder: Path, pattern: str) -> None:
    """Remove what `pattern` matches in `folder` and nobody wrote to for a day: a process that was killed left it."""
    for path in folder.glob(pattern):
        try:
            newest = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
            if time.time() - newest > ABANDONED_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:
            # Another process removes it too, or may remove it and this one may not.
            continue


def replace_text(path: Path, text: str, lasting: bool = True) -> None:
    """Replace `path` by `text` (UTF-8) in one step: a reader, and a machine that lost its power, finds the old or the new text whole.

    `lasting` False: without a wait for the disk, for what a power cut may take, such as how far a stage is.
    Raises OSError as open and rename do; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if lasting:
        sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Bring every file and folder under `folder` to the disk: what must be done before `folder` is renamed to its place."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Bring one file or the entries of one folder to the disk; a file system that cannot sync folders is left to itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
