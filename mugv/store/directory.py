"""A store in a directory: an output is written under a temporary name, flushed to disk and renamed into place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from mugv.errors import StoreError
from mugv.store import manifest
from mugv.store.base import Ref
from mugv.store.manifest import Manifest

_HINTS = {
    errno.ENOSPC: "free some space and run again; finished stages are kept",
    errno.EDQUOT: "free some of the quota and run again; finished stages are kept",
    errno.EROFS: "the file system is read-only; give a writable folder with --state",
    errno.EACCES: "check its permissions, or give another folder with --state",
    errno.EPERM: "check its permissions, or give another folder with --state",
}


@contextmanager
def explained(where: Path | str) -> Iterator[None]:
    """Turn a disk that is full, read-only or forbidden into one line that says so; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _HINTS:
            raise
        name = error.filename or where
        raise StoreError(f"{name}: {os.strerror(error.errno)}; {_HINTS[error.errno]}") from error


class DirectoryStore:
    """Implements mugv.store.base.Store under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = "file://" + quote(str(self.root))

    def publish(self, folder: Path, prefix: str, key: str) -> Ref:
        """Moves `folder` (copies it when it lies on another file system)."""
        final = self.root / prefix
        partial = self.root / ".partial" / f"{prefix.replace('/', '.')}.{os.getpid()}"
        with explained(final):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.parent.mkdir(parents=True, exist_ok=True)
                _move(folder, partial)
                written = Manifest.of_folder(partial, key)
                (partial / manifest.NAME).write_text(written.to_json())
                _flush(partial)
                self._rename(partial, final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return Ref(f"{self.uri}/{prefix}", key, written.digest)

    def _rename(self, partial: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists() and not (final / manifest.NAME).is_file():
            shutil.rmtree(final)
        if not final.exists():
            partial.rename(final)
        _flush_name(final.parent)

    def find(self, prefix: str) -> Ref | None:
        found = self._manifest(self.root / prefix)
        return Ref(f"{self.uri}/{prefix}", found.key, found.digest) if found else None

    def fetch(self, ref: Ref) -> Path:
        folder = Path(unquote(urlparse(ref.uri).path))
        found = self._manifest(folder)
        if found is None or found.digest != ref.digest:
            raise StoreError(f"{ref.uri}: the output is gone or was replaced; run again to make it anew")
        self._check_once(folder, found)
        return folder

    def _check_once(self, folder: Path, found: Manifest) -> None:
        """Files are hashed again only when a name, a size or a time changed since the last check."""
        marker = self.root / ".checked" / found.key
        signature = "".join(f"{n} {s.st_size} {s.st_mtime_ns}\n" for n, s in ((n, os.stat(folder / n)) for n in _present(folder, found)))
        if marker.is_file() and marker.read_text() == signature:
            return
        found.check(folder)
        with suppress(OSError):
            # A read-only store can be read; it is only checked again each time.
            marker.parent.mkdir(exist_ok=True)
            marker.write_text(signature)

    def list(self, prefix: str = "") -> list[str]:
        start = self.root / prefix.rpartition("/")[0]
        names = (p.relative_to(self.root).as_posix() for p in start.rglob("*") if p.is_file())
        return sorted(n for n in names if n.startswith(prefix) and not n.startswith("."))

    def put_file(self, path: Path, name: str) -> None:
        target = self.root / name
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        with explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, partial)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

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

    def _manifest(self, folder: Path) -> Manifest | None:
        try:
            return Manifest.parse((folder / manifest.NAME).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None


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


def _present(folder: Path, found: Manifest) -> list[str]:
    return [name for name in sorted(found.files) if (folder / name).is_file()]


def _flush(folder: Path) -> None:
    """Force the content to disk before the rename, so that a power cut cannot leave a published but empty file."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file():
            path.chmod(0o444)
        _flush_name(path)


def _flush_name(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
