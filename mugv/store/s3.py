"""A store in an S3 bucket, through the `minio` client: put, get, list, stat and remove only, so that any server will do.

An output's files are uploaded first and its manifest last: until then it does not exist. Fetched outputs are kept in a
local cache by content. Settings: see mugv.store.s3_client.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlparse

from minio import Minio

from mugv.errors import StoreError, UserError
from mugv.store import manifest
from mugv.store.base import Ref
from mugv.store.directory import explained
from mugv.store.manifest import Manifest
from mugv.store.s3_client import THREADS, MissingObjectError, connect, retried

T = TypeVar("T")


class S3Store:
    """Implements mugv.store.base.Store at `s3://bucket/prefix`."""

    def __init__(self, uri: str, cache: Path, client: Minio | None = None) -> None:
        parsed = urlparse(uri)
        if not parsed.netloc:
            raise UserError(f"store {uri}: no bucket; expected s3://bucket/prefix")
        self.uri = uri.rstrip("/")
        self.bucket = parsed.netloc
        self.base = parsed.path.strip("/")
        self.cache = cache
        self.client = client or connect(f"store {uri}")

    def publish(self, folder: Path, prefix: str, key: str) -> Ref:
        written = Manifest.of_folder(folder, key)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: self.put_file(folder / name, f"{prefix}/{name}"), written.files))
        local = folder / manifest.NAME
        with explained(local):
            local.write_text(written.to_json())
        self.put_file(local, f"{prefix}/{manifest.NAME}")
        return Ref(f"{self.uri}/{prefix}", key, written.digest)

    def find(self, prefix: str) -> Ref | None:
        found = self._manifest(prefix)
        return Ref(f"{self.uri}/{prefix}", found.key, found.digest) if found else None

    def fetch(self, ref: Ref) -> Path:
        folder = self.cache / ref.digest
        if folder.is_dir():
            return folder
        prefix = ref.uri.removeprefix(self.uri).strip("/")
        found = self._manifest(prefix)
        if found is None or found.digest != ref.digest:
            raise StoreError(f"{ref.uri}: the output is gone or was replaced; run again to make it anew")
        temporary = self.cache / f".{ref.digest}.{os.getpid()}"
        with explained(folder):
            try:
                self._download(found, prefix, temporary)
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return folder

    def _download(self, found: Manifest, prefix: str, folder: Path) -> None:
        for name in found.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: self.get_file(f"{prefix}/{name}", folder / name), found.files))
        found.check(folder)

    def list(self, prefix: str = "") -> list[str]:
        start = self._name(prefix)
        cut = len(self.base) + 1 if self.base else 0
        return sorted(
            str(o.object_name)[cut:]
            for o in self._try("list", lambda: list(self.client.list_objects(bucket_name=self.bucket, prefix=start, recursive=True)))
        )

    def put_file(self, path: Path, name: str) -> None:
        self._try(
            f"put {name}",
            lambda: self.client.fput_object(bucket_name=self.bucket, object_name=self._name(name), file_path=str(path)),
        )

    def get_file(self, name: str, path: Path) -> None:
        with explained(path):
            self._try(
                f"get {name}",
                lambda: self.client.fget_object(bucket_name=self.bucket, object_name=self._name(name), file_path=str(path)),
            )

    def remove(self, prefix: str) -> None:
        names = self.list(prefix)
        # The manifest goes first: from then on the output does not exist.
        for name in sorted(names, key=lambda n: not n.endswith(manifest.NAME)):
            self._try(f"remove {name}", partial(self.client.remove_object, bucket_name=self.bucket, object_name=self._name(name)))

    def _manifest(self, prefix: str) -> Manifest | None:
        try:
            return Manifest.parse(self._try("get manifest", lambda: self._read(f"{prefix}/{manifest.NAME}")))
        except MissingObjectError:
            return None
        except (json.JSONDecodeError, KeyError):
            raise StoreError(f"{self.uri}/{prefix}/{manifest.NAME}: not a manifest; remove the prefix and run again") from None

    def _read(self, name: str) -> bytes:
        response = self.client.get_object(bucket_name=self.bucket, object_name=self._name(name))
        try:
            return bytes(response.read())
        finally:
            response.close()
            response.release_conn()

    def _name(self, name: str) -> str:
        return f"{self.base}/{name}".strip("/") if self.base else name

    def _try(self, what: str, action: Callable[[], T]) -> T:
        return retried(f"store {self.uri}", what, action)
