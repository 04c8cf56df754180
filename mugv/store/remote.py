"""Files that a recipe names in a bucket, such as weights too large to be carried along: fetched into the cache when a task needs them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from uuid import uuid4

from mugv.durable import sync_tree
from mugv.errors import StoreError, UserError
from mugv.store import manifest
from mugv.store.directory import damaged_since
from mugv.store.disk import explained
from mugv.store.manifest import Manifest, ManifestError
from mugv.store.s3 import S3Store

Listing = dict[str, tuple[int, str]]
"""Name below the URI ("" for the object itself) -> bytes and etag."""


def remote_digest(uri: str) -> str:
    """SHA-256 (hex) of names, sizes and etags at s3://bucket/key, an object or a prefix. Raises UserError where nothing lies."""
    return _digest(_listed(*_opened(uri)))


def fetch_remote(uri: str) -> Path:
    """A local copy of the object, or of all that lies under the prefix; made once for one state of the bucket, checked at each use."""
    store, key = _opened(uri)
    listing = _listed(store, key)
    digest, name = _digest(listing), key.rpartition("/")[2]
    folder = store.cache / "remote" / digest
    if not _whole(folder, digest):
        temporary = folder.with_name(f".{digest}.{uuid4().hex}")
        with explained(folder):
            try:
                _download(store, key, listing, temporary / name, uri)
                _seal(temporary, digest)
                _put_in_place(temporary, folder, digest)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder / name


def _opened(uri: str) -> tuple[S3Store, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not key.strip("/"):
        raise UserError(f"{uri}: no key; expected s3://bucket/key of an object or a prefix")
    cache = Path(os.environ.get("MUGV_STATE", ".mugv")).absolute() / "cache"
    return S3Store(f"s3://{bucket}", cache), key.strip("/")


def _listed(store: S3Store, key: str) -> Listing:
    names = store.list_facts(key)
    found = {name[len(key) :].lstrip("/"): facts for name, facts in names.items() if name == key or name.startswith(f"{key}/")}
    # Some tools make an object for a folder itself.
    found = {name: facts for name, facts in found.items() if name or len(found) == 1}
    if not found:
        raise UserError(f"{store.uri}/{key}: no such object or prefix in the bucket")
    return found


def _digest(listing: Listing) -> str:
    return hashlib.sha256(json.dumps(sorted(listing.items()), separators=(",", ":")).encode()).hexdigest()


def _whole(folder: Path, digest: str) -> bool:
    try:
        found = Manifest.parse((folder / manifest.NAME).read_bytes())
    except (OSError, ManifestError):
        return False
    return found.key == digest and not damaged_since(folder, found, folder.with_name(f".checked-{digest}"), verify=False)


def _download(store: S3Store, key: str, listing: Listing, target: Path, uri: str) -> None:
    for name, (size, _) in listing.items():
        path = target / manifest.checked_name(name) if name else target
        path.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(f"{key}/{name}".rstrip("/"), path)
        if path.stat().st_size != size:
            raise StoreError(f"{uri}: {name or key} changed while it was fetched; run again")


def _seal(folder: Path, digest: str) -> None:
    (folder / manifest.NAME).write_text(Manifest.of_folder(folder, digest).to_json())
    sync_tree(folder)


def _put_in_place(temporary: Path, folder: Path, digest: str) -> None:
    """Another process may have fetched the same; a damaged copy that lies there goes first."""
    if folder.exists() and not _whole(folder, digest):
        stale = folder.with_name(f"{temporary.name}.stale")
        folder.rename(stale)
        shutil.rmtree(stale, ignore_errors=True)
    try:
        temporary.rename(folder)
    except OSError:
        if not _whole(folder, digest):
            raise
