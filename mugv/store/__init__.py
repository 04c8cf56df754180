"""Where outputs live: a directory or an S3 bucket behind one narrow interface (mugv.store.base.Store)."""

from __future__ import annotations

from pathlib import Path

from mugv.errors import UserError
from mugv.store.base import Ref, Store
from mugv.store.directory import DirectoryStore
from mugv.store.disk import check_volume, explained
from mugv.store.uri import file_path, scheme_of


def open_store(uri: str | Path, cache: Path | None = None) -> Store:
    """The store at a folder, a `file://` URI or `s3://bucket/prefix`. `cache`: local folder for what is fetched from S3."""
    if isinstance(uri, Path):
        return DirectoryStore(uri)
    scheme = scheme_of(uri)
    if scheme in ("", "file"):
        return DirectoryStore(file_path(uri))
    if scheme == "s3":
        from mugv.store.s3 import S3Store

        return S3Store(uri, cache or Path(".mugv") / "cache")
    raise UserError(f"store {uri}: scheme {scheme!r} is not known; use a folder, file:// or s3://bucket/prefix")


__all__ = ["DirectoryStore", "Ref", "Store", "check_volume", "explained", "open_store"]
