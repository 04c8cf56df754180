"""Where outputs live: a directory or an S3 bucket behind one narrow interface (mugv.store.base.Store)."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

from mugv.errors import UserError
from mugv.store.base import Ref, Store
from mugv.store.directory import DirectoryStore, explained


def open_store(uri: str | Path, cache: Path | None = None) -> Store:
    """The store at a folder, a `file://` URI or `s3://bucket/prefix`. `cache`: local folder for what is fetched from S3."""
    parsed = urlparse(str(uri))
    if parsed.scheme in ("", "file"):
        return DirectoryStore(Path(unquote(parsed.path)))
    if parsed.scheme == "s3":
        from mugv.store.s3 import S3Store

        return S3Store(str(uri), cache or Path(".mugv") / "cache")
    raise UserError(f"store {uri}: scheme {parsed.scheme!r} is not known; use a folder, file:// or s3://bucket/prefix")


__all__ = ["DirectoryStore", "Ref", "Store", "explained", "open_store"]
