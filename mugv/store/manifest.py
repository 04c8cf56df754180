"""The manifest of a published output: file names, sizes and digests, and one digest over all of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mugv.digests import file_digest
from mugv.errors import StoreError

NAME = "manifest.json"


@dataclass(frozen=True)
class Entry:
    sha256: str
    bytes: int


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
        tree = json.loads(text)
        return cls(tree["key"], tree["digest"], {name: Entry(**e) for name, e in tree["files"].items()})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    def check(self, folder: Path) -> None:
        """Raise StoreError when a file of `folder` is missing or differs from what was published."""
        for name, entry in self.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry.bytes or file_digest(path) != entry.sha256:
                raise StoreError(f"{path}: damaged since it was published (expected sha256 {entry.sha256}); remove {folder} and run again")


def _content_digest(files: dict[str, Entry]) -> str:
    lines = "".join(f"{name} {entry.sha256}\n" for name, entry in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
