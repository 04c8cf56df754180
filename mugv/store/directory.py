"""A store in a directory: an output is written under a temporary name, flushed to disk and renamed into place."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from mugv.durable import beside, replace_text, sweep, sync
from mugv.errors import StoreError
from mugv.store import manifest
from mugv.store.base import Ref
from mugv.store.disk import explained
from mugv.store.manifest import Manifest, ManifestError
from mugv.store.uri import file_path, file_uri

logger = logging.getLogger(__name__)


class DirectoryStore:
    """Implements mugv.store.base.Store under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = file_uri(self.root)

    def publish(self, folder: Path, prefix: str, key: str) -> Ref:
        """Moves `folder` (copies it when it lies on another file system). What was published before it stays, and is what is returned."""
        final = self.root / prefix
        partial = self.root / ".partial" / f"{prefix.replace('/', '.')}.{secrets.token_hex(8)}"
        with explained(final):
            try:
                partial.parent.mkdir(parents=True, exist_ok=True)
                sweep(partial.parent, "*")
                _move(folder, partial)
                written = Manifest.of_folder(partial, key)
                (partial / manifest.NAME).write_text(written.to_json())
                _flush(partial)
                found = self._rename(partial, final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return found or Ref(f"{self.uri}/{prefix}", key, written.digest)

    def _rename(self, partial: Path, final: Path) -> Ref | None:
        """None; or what another process published first."""
        final.parent.mkdir(parents=True, exist_ok=True)
        found = self.find(final.relative_to(self.root).as_posix())
        if found is None:
            stale = partial.with_name(f"{partial.name}.stale")
            with suppress(FileNotFoundError):
                final.rename(stale)
            try:
                partial.rename(final)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                found = self.find(final.relative_to(self.root).as_posix())
            shutil.rmtree(stale, ignore_errors=True)
        sync(final.parent)
        return found

    def find(self, prefix: str) -> Ref | None:
        try:
            found = _read(self.root / prefix)
        except ManifestError as error:
            logger.warning("%s counts as absent and is made anew: %s", self.root / prefix, error)
            return None
        return Ref(f"{self.uri}/{prefix}", found.key, found.digest) if found else None

    def fetch(self, ref: Ref, verify: bool = False) -> Path:
        folder = file_path(ref.uri)
        try:
            found = _read(folder)
        except ManifestError as error:
            raise StoreError(f"{error}; run again to make {folder} anew") from None
        if found is None or found.digest != ref.digest:
            raise StoreError(f"{ref.uri}: the output is gone or was replaced; run again to make it anew")
        damaged = damaged_since(folder, found, self.root / ".checked" / found.key, verify)
        if damaged:
            path, expected = folder / damaged[0], found.files[damaged[0]].sha256
            raise StoreError(f"{path}: damaged since it was published (expected sha256 {expected}); remove {folder} and run again")
        return folder

    def list(self, prefix: str = "") -> list[str]:
        start = self.root / prefix.rpartition("/")[0]
        names = (p.relative_to(self.root).as_posix() for p in start.rglob("*") if p.is_file())
        return sorted(n for n in names if n.startswith(prefix) and not n.startswith("."))

    def put_file(self, path: Path, name: str) -> None:
        target = self.root / name
        partial = beside(target)
        with explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, partial)
                sync(partial)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
            sync(target.parent)

    def get_file(self, name: str, path: Path) -> None:
        with explained(path):
            try:
                shutil.copyfile(self.root / name, path)
            except FileNotFoundError:
                raise StoreError(f"{self.uri}/{name}: no such object") from None

    def remove(self, prefix: str) -> None:
        target = self.root / prefix
        with explained(target):
            if target.is_dir():
                # The manifest goes first: from then on the output does not exist.
                (target / manifest.NAME).unlink(missing_ok=True)
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def damaged_since(folder: Path, found: Manifest, marker: Path, verify: bool) -> list[str]:
    """Names of damaged files. They are hashed when a name, a size or a time changed since `marker` was written, and for `verify`."""
    signature = _signature(folder, found)
    if not verify and _text(marker) == signature:
        return []
    damaged = found.damaged(folder)
    if not damaged:
        with suppress(OSError):
            # A read-only store can be read; it is only checked again each time.
            replace_text(marker, signature)
    return damaged


def _signature(folder: Path, found: Manifest) -> str:
    """The change time tells of a file that was replaced by one with the old modification time, as copies and backups are."""
    lines = []
    for name in sorted(found.files):
        with suppress(OSError):
            facts = os.stat(folder / name)
            lines.append(f"{os.fsencode(name)!r} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}\n")
    return "".join(lines)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _read(folder: Path) -> Manifest | None:
    """None where there is no manifest. Raises ManifestError, with the file's name, where it is damaged."""
    path = folder / manifest.NAME
    try:
        found = Manifest.parse(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ManifestError, IsADirectoryError) as error:
        raise ManifestError(f"{path}: damaged ({error})") from None
    if found.key != folder.name:
        raise ManifestError(f"{path}: damaged (its key is not the folder's name)")
    return found


def _move(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # File by file: shutil.move would collect the errors of a full disk into one that has no number.
        for path in (p for p in folder.rglob("*") if p.is_file()):
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        target.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder)


def _flush(folder: Path) -> None:
    """Force the content to disk before the rename, so that a power cut cannot leave a published but empty file."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file():
            path.chmod(0o444)
        sync(path)
