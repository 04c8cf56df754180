"""`digests.json` of a folder: the SHA-256 of every file in it, so that a turned bit is seen before it is used. Standard library only."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from mugv.durable import replace_text
from mugv.errors import UserError

NAME = "digests.json"
SETTLED_SECONDS = 2.0
"""A file that changed a moment ago may change again within one tick of its clock: its digest is not remembered yet."""


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path, of: Callable[[Path], str] = file_digest) -> str:
    """SHA-256 (hex) of a file, or of a folder's relative names and contents; no times enter. `of`: digest of one file."""
    if not path.is_dir():
        return of(path)
    files = {p.relative_to(path).as_posix(): of(p) for p in path.rglob("*") if p.is_file()}
    return hashlib.sha256(json.dumps(files, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def names_in(folder: Path) -> list[str]:
    """Every file of `folder` but the digests themselves, by its path below the folder, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != folder / NAME)


def compute(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> digest."""
    return {name: file_digest(folder / name) for name in names}


def write(folder: Path, digests: dict[str, str]) -> None:
    """Make `digests.json`, in one step."""
    replace_text(folder / NAME, json.dumps({"sha256": digests}, indent=1, sort_keys=True) + "\n")


def read(folder: Path) -> dict[str, str] | None:
    """What `digests.json` says; None where there is none or it is damaged itself."""
    try:
        found = json.loads((folder / NAME).read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    good = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if good else None


def damage(folder: Path, digests: dict[str, str]) -> str:
    """The first of these files that is missing or differs, as half a sentence; empty when all are as they were written."""
    for name, digest in sorted(digests.items()):
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        try:
            if file_digest(path) != digest:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return ""


def check(folder: Path, found: Callable[[Path], str] | None = None) -> None:
    """Raise UserError when a folder that has digests is not what was written; one without (of an older version) passes.

    `found`: says what is wrong, for a group of processes that share the work.
    """
    if (folder / NAME).exists() and (wrong := (found or damage_of)(folder)):
        raise UserError(f"{folder}: damaged since it was written: {wrong}; copy or make it again")


def damage_of(folder: Path) -> str:
    """`damage` by the folder's own digests."""
    known = read(folder)
    return f"{NAME} is damaged" if known is None else damage(folder, known)


class DigestMemory:
    """SHA-256 of files, remembered in a JSON file by path, size and times of change. A digest that is given out holds the content alone."""

    def __init__(self, path: Path | None) -> None:
        """`path`: the JSON file; None: nothing is remembered. One that is damaged counts as empty."""
        self.path = path
        self._known: dict[str, list[int | str]] = {}
        self._changed = False
        with suppress(OSError, ValueError, RecursionError):
            known = json.loads(path.read_bytes()) if path else {}
            self._known = known if isinstance(known, dict) else {}

    def of(self, path: Path) -> str:
        """Digest of a file. Raises OSError."""
        name, facts = str(path.resolve()), path.stat()
        now = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
        known = self._known.get(name)
        if isinstance(known, list) and known[:3] == now and isinstance(known[-1], str):
            return known[-1]
        digest = file_digest(path)
        if time.time() - facts.st_ctime > SETTLED_SECONDS:
            self._known[name] = [*now, digest]
            self._changed = True
        return digest

    def keep(self) -> None:
        """Write what was learned."""
        if self.path and self._changed:
            replace_text(self.path, json.dumps(self._known), lasting=False)
            self._changed = False
