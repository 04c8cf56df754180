"""Files of the machine that submits, carried into the store by content, so that a task elsewhere can read what the recipe names.

    carried/<sha256>/<name>            the file, or the folder, that a recipe named
    carried/<sha256>/manifest.json     written last, as with every output

The URI holds the digest of the content: keys are computed from it without opening anything, and what arrives is checked against it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from mugv.digests import content_digest
from mugv.errors import StoreError, UserError
from mugv.store.base import Store
from mugv.store.disk import explained
from mugv.store.uri import file_path, scheme_of

LARGEST = 256 << 20
"""Bytes of one file or folder that is carried along; more belongs into a bucket."""
MOST_FILES = 1000
_URI = re.compile(r"(?P<root>(?:s3|file)://.*)/carried/(?P<digest>[0-9a-f]{64})/(?P<name>[^/]+)")


def carry(path: Path, store: Store, label: str, only: str = "*") -> str:
    """Put a file or a folder into the store, once for one content; returns its URI.

    `label`: the recipe's key, for errors. `only`: pattern of the files' names that a folder is carried with.

    Raises UserError when it cannot be read or is too large, StoreError as the store does.
    """
    check_size(path, label, only)
    with tempfile.TemporaryDirectory(prefix="mugv-carried-") as scratch, explained(scratch):
        folder = Path(scratch) / "out"
        copy = folder / _safe_name(path)
        folder.mkdir()
        # The digest is the copy's: the file may change while it is read.
        _copy(path, copy, label, only)
        digest = content_digest(copy)
        if store.find(f"carried/{digest}") is None:
            store.publish(folder, f"carried/{digest}", digest)
    name = _published_name(store, digest) or copy.name
    return f"{store.uri}/carried/{digest}/{name}"


def carried_digest(value: str) -> str:
    """The digest in the URI of a carried file; "" for any other value."""
    found = _URI.fullmatch(value)
    return found["digest"] if found else ""


def local_path(value: str, store: Store | None = None) -> Path:
    """Where a recipe's file or folder lies on this machine: a plain path as it is, anything else in the state's cache.

    What was carried is compared with the digest in its URI each time. `store`: an open one, where the caller has it. Raises StoreError
    when it cannot be had or is not what was carried, UserError for a URI that names nothing.
    """
    found = _URI.fullmatch(value)
    if found is None:
        return _uncarried(value)
    store = store if store and store.uri == found["root"] else _open(found["root"])
    ref = store.find(f"carried/{found['digest']}")
    if ref is None:
        raise StoreError(f"{value}: is gone from the store; compile or submit the recipe again where its files lie")
    path = store.fetch(ref, verify=True) / found["name"]
    if not path.exists() or content_digest(path) != found["digest"]:
        raise StoreError(f"{value}: is not what was carried; remove {found['root']}/carried/{found['digest']} and submit again")
    return path


def _uncarried(value: str) -> Path:
    scheme = scheme_of(value)
    if scheme in ("", "file"):
        return file_path(value)
    if scheme == "s3":
        from mugv.store.remote import fetch_remote

        return fetch_remote(value)
    raise UserError(f"{value}: scheme {scheme!r} is not known; use a path, file:// or s3://bucket/key")


def _open(root: str) -> Store:
    from mugv.store import open_store

    return open_store(root, Path(os.environ.get("MUGV_STATE", ".mugv")).absolute() / "cache")


def _published_name(store: Store, digest: str) -> str:
    """Equal contents of two names are kept once, under the first name."""
    names = {name.split("/")[2] for name in store.list(f"carried/{digest}/")} - {"manifest.json"}
    return min(names, default="")


def check_size(path: Path, label: str, only: str = "*") -> None:
    """Raise UserError for what is missing, empty, or too large to be carried along."""
    try:
        files = _files(path, only)
        size = sum(p.stat().st_size for p in files)
    except OSError as error:
        raise UserError(f"{label}: {path} cannot be read ({error.strerror}); give an existing file or folder") from None
    instead = "put it into the bucket and name it s3://BUCKET/..., or on a volume of the tasks and give its path there"
    if not files or not (path.is_dir() or path.is_file()):
        problem = f"a folder without {only}" if path.is_dir() else "not a file"
        raise UserError(f"{label}: {path} is {problem}; give an existing file or folder")
    if size > LARGEST or len(files) > MOST_FILES:
        what = f"{size / 1e6:.0f} MB" if size > LARGEST else f"{len(files)} files"
        most = f"{LARGEST / 1e6:.0f} MB" if size > LARGEST else f"{MOST_FILES}"
        raise UserError(f"{label}: {path} has {what}, too large to be carried along (at most {most}); {instead}")


def _files(path: Path, only: str) -> list[Path]:
    return [p for p in path.rglob(only) if p.is_file()] if path.is_dir() else [path]


def _copy(path: Path, copy: Path, label: str, only: str) -> None:
    try:
        for source in _files(path, only):
            target = copy / source.relative_to(path) if path.is_dir() else copy
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as error:
        if error.filename and Path(os.fsdecode(error.filename)).is_relative_to(path):
            raise UserError(f"{label}: {error.filename} cannot be read ({error.strerror})") from None
        raise


def _safe_name(path: Path) -> str:
    """A name that means the same in a path, an object's key and a URI."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.absolute().name).lstrip(".") or "file"
    return f"_{name}" if name == "manifest.json" else name
