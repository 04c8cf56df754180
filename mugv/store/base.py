"""What every object store can do: put, get, list, and publish a folder so that it appears whole or not at all.

An *output* is a folder of files under a prefix plus `manifest.json`, written last: without it the output does not exist.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

PATIENCE = "MUGV_PATIENCE_SECONDS"
"""Environment variable: for how long a store that is away is asked again, at least; unset: a few times. Tasks on a cluster set it."""


@dataclass(frozen=True)
class Ref:
    """An output of a stage: where it is, the stage's cache key, and the digest of its content."""

    uri: str
    key: str
    digest: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class Store(Protocol):
    """Raises mugv.errors.StoreError with one line when the store cannot be read or written."""

    uri: str

    def publish(self, folder: Path, prefix: str, key: str) -> Ref:
        """Copy or move every file of `folder` under `prefix` and write the manifest (file digests, sizes) last."""
        ...

    def find(self, prefix: str) -> Ref | None:
        """The output under `prefix` when it was published whole, else None. A damaged manifest is told, never a traceback."""
        ...

    def fetch(self, ref: Ref, verify: bool = False) -> Path:
        """A local, read-only folder with the output's files; digests are checked on first use and after any change.

        `verify`: hash every file now, since a failing disk changes neither size nor time.
        """
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Object names under a prefix, sorted."""
        ...

    def put_file(self, path: Path, name: str) -> None: ...

    def get_file(self, name: str, path: Path) -> None: ...

    def remove(self, prefix: str) -> None: ...
