"""A store in an S3 bucket, through the `minio` client: put, get, list, stat and remove only, so that any server will do.

An output's files are uploaded first and its manifest last: until then it does not exist. Fetched outputs are kept in a
local cache by content. Settings: MUGV_S3_ENDPOINT (or MINIO_ENDPOINT, AWS_ENDPOINT_URL), MUGV_S3_ACCESS_KEY and
MUGV_S3_SECRET_KEY (or the AWS_* pair).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlparse

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error

from mugv.errors import StoreError, UserError
from mugv.store import manifest
from mugv.store.base import Ref
from mugv.store.directory import explained
from mugv.store.manifest import Manifest

T = TypeVar("T")
ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.25
THREADS = 4
_MISSING = {"NoSuchKey", "NoSuchBucket", "NotFound"}
_FINAL = {400, 401, 403, 405, 409, 501}
"""Answers that stay the same however often one asks."""


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
        self.client = client or _client(uri)

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
        except _MissingObjectError:
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
        """Do `action`, again with growing pauses while the server is away or busy."""
        wait = FIRST_WAIT_SECONDS
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except (S3Error, InvalidResponseError, urllib3.exceptions.HTTPError, ConnectionError) as error:
                self._give_up_if_final(what, error)
                if attempt + 1 == ATTEMPTS:
                    raise StoreError(
                        f"store {self.uri}: {what} failed {ATTEMPTS} times ({_short(error)}); run again when it is back"
                    ) from error
            time.sleep(wait)
            wait *= 2
        raise AssertionError("unreachable")

    def _give_up_if_final(self, what: str, error: Exception) -> None:
        status = _status(error)
        if status == 404:
            raise _MissingObjectError(f"{self.uri}: {what}: no such object or bucket") from error
        if status in _FINAL:
            raise StoreError(f"store {self.uri}: {what} refused ({_short(error)}); check the bucket, the keys and the endpoint") from error


class _MissingObjectError(StoreError):
    """Nothing of that name."""


def _status(error: Exception) -> int:
    """HTTP status of an answer; 0 when there was none. Some servers answer with errors that only InvalidResponseError carries."""
    if isinstance(error, S3Error):
        return 404 if error.code in _MISSING else int(getattr(error.response, "status", 0) or 0)
    if isinstance(error, InvalidResponseError):
        return int(error._code)
    return 0


def _short(error: Exception) -> str:
    if isinstance(error, S3Error):
        return f"{error.code}: {error.message}"
    return " ".join(str(error).split())[:160]


def _client(uri: str) -> Minio:
    env = os.environ
    endpoint = env.get("MUGV_S3_ENDPOINT") or env.get("MINIO_ENDPOINT") or env.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    access = env.get("MUGV_S3_ACCESS_KEY") or env.get("AWS_ACCESS_KEY_ID")
    secret = env.get("MUGV_S3_SECRET_KEY") or env.get("AWS_SECRET_ACCESS_KEY")
    if not access or not secret:
        raise UserError(
            f"store {uri}: no keys; set MUGV_S3_ACCESS_KEY and MUGV_S3_SECRET_KEY, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    parsed = urlparse(endpoint if "//" in endpoint else f"http://{endpoint}")
    timeout = urllib3.Timeout(connect=10, read=300)
    # Retries are ours: the client's own would multiply with them and cannot be told what is final.
    pool = urllib3.PoolManager(timeout=timeout, retries=urllib3.Retry(0), maxsize=THREADS)
    return Minio(
        endpoint=parsed.netloc,
        access_key=access,
        secret_key=secret,
        secure=parsed.scheme == "https",
        region=env.get("AWS_REGION", "us-east-1"),
        http_client=pool,
    )
