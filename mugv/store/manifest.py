"""The manifest of a published output: file names, sizes and digests, and one digest over all of them.

A manifest may come from a shared bucket or a failing disk: it is read as a stranger's text, and its names can only lie inside its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mugv.digests import file_digest

NAME = "manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestError(ValueError):
    """A text is no manifest; the message says why, without naming the file."""


@dataclass(frozen=True)
class Entry:
    sha256: str
    bytes: int

    @classmethod
    def parse(cls, tree: Any) -> Entry:
        if not isinstance(tree, dict) or set(tree) != {"sha256", "bytes"}:
            raise ManifestError("an entry must have sha256 and bytes")
        sha256, size = tree["sha256"], tree["bytes"]
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256) or type(size) is not int or size < 0:
            raise ManifestError("an entry's sha256 must be 64 hex digits and its bytes a count")
        return cls(sha256, size)


@dataclass(frozen=True)
class Manifest:
    """What a published folder holds."""

    key: str
    digest: str
    files: dict[str, Entry]

    @classmethod
    def of_folder(cls, folder: Path, key: str) -> Manifest:
        """Read every file of `folder`."""
        paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME)
        files = {p.relative_to(folder).as_posix(): Entry(file_digest(p), p.stat().st_size) for p in paths}
        return cls(key, _content_digest(files), files)

    @classmethod
    def parse(cls, text: str | bytes) -> Manifest:
        """Raises ManifestError for anything that `to_json` did not write: other JSON, wrong types, names outside of the folder."""
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            raise ManifestError("not JSON") from None
        if not isinstance(tree, dict) or not isinstance(tree.get("files"), dict):
            raise ManifestError("not a mapping with key, digest and files")
        key, digest = tree.get("key"), tree.get("digest")
        if not isinstance(key, str) or not isinstance(digest, str):
            raise ManifestError("key and digest must be texts")
        files = {checked_name(name): Entry.parse(entry) for name, entry in tree["files"].items()}
        if _content_digest(files) != digest:
            raise ManifestError("its digest does not match its files")
        return cls(key, digest, files)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    def damaged(self, folder: Path) -> list[str]:
        """Names of the files that are missing from `folder` or differ from what was published; reads all of them."""
        return [name for name, entry in self.files.items() if not holds(folder / name, entry)]


def checked_name(name: str) -> str:
    """`name` when it is a relative path that stays in its folder. Raises ManifestError."""
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts) or name == NAME:
        raise ManifestError(f"file name {name!r} is not a relative path inside the output")
    return name


def holds(path: Path, entry: Entry) -> bool:
    """Whether a file is there and is what an entry says."""
    try:
        return path.is_file() and path.stat().st_size == entry.bytes and file_digest(path) == entry.sha256
    except OSError:
        return False


def _content_digest(files: dict[str, Entry]) -> str:
    digest = hashlib.sha256()
    for name, entry in sorted(files.items()):
        digest.update(os.fsencode(name) + f" {entry.sha256}\n".encode())
    return digest.hexdigest()
