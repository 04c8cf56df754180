"""`digests.json` of a folder: the SHA-256 of every file in it, so that a turned bit is seen before it is used. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from mugv.durable import replace_text
from mugv.errors import UserError

NAME = "digests.json"


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
