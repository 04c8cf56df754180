"""A store in an S3 bucket, through the `minio` client: put, get, list, stat and remove only, so that any server will do.

An output's files are uploaded first and its manifest last: until then it does not exist. Fetched outputs are kept in a
local cache by content, with their manifest, and checked each time they are used. Settings: see mugv.store.s3_client.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from minio import Minio
from minio.helpers import check_bucket_name
from urllib3 import BaseHTTPResponse

from mugv.durable import replace_text, sweep, sync
from mugv.errors import StoreError, UserError
from mugv.store import manifest
from mugv.store.base import Ref
from mugv.store.directory import damaged_since
from mugv.store.disk import explained
from mugv.store.manifest import Manifest, ManifestError, holds
from mugv.store.s3_client import NO_BUCKET, MissingObjectError, OddAnswerError, connect, retried
from mugv.store.s3_upload import Uploader

T = TypeVar("T")
LARGEST_MANIFEST = 256 << 20
FILES_AT_ONCE = 16
DOWNLOADS = 3
"""How often what arrived with another content than the manifest says is asked for, all in all."""


class S3Store:
    """Implements mugv.store.base.Store at `s3://bucket/prefix`."""

    def __init__(self, uri: str, cache: Path, client: Minio | None = None) -> None:
        self.bucket, _, base = uri.partition("://")[2].partition("/")
        if not self.bucket:
            raise UserError(f"store {uri}: no bucket; expected s3://bucket/prefix")
        try:
            check_bucket_name(self.bucket)
        except ValueError as error:
            raise UserError(f"store {uri}: {error}; expected s3://bucket/prefix") from None
        self.uri = uri.rstrip("/")
        self.base = base.strip("/")
        self.cache = cache
        self.client = client or connect(f"store {uri}")
        self.uploader = Uploader(self.client, self.bucket)
        # One for all outputs: ten thousand small ones must not start as many threads.
        self.files = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="store")
        self.found: dict[str, Manifest] = {}

    def publish(self, folder: Path, prefix: str, key: str) -> Ref:
        found = self.find(prefix)
        if found:
            # Another try of the same was first: what is published stays.
            return found
        written = Manifest.of_folder(folder, key)
        self._each(lambda name: self.put_file(folder / name, f"{prefix}/{name}"), list(written.files))
        local = folder / manifest.NAME
        with explained(local):
            local.write_text(written.to_json())
        self.put_file(local, f"{prefix}/{manifest.NAME}")
        return Ref(f"{self.uri}/{prefix}", key, written.digest)

    def find(self, prefix: str) -> Ref | None:
        found = self._manifest(prefix)
        if found is None:
            return None
        self.found[prefix] = found
        return Ref(f"{self.uri}/{prefix}", found.key, found.digest)

    def _each(self, action: Callable[[str], None], names: list[str]) -> None:
        """Do `action` for all names, side by side where there are several."""
        if len(names) < 2:
            for name in names:
                action(name)
        else:
            list(self.files.map(action, names))

    def fetch(self, ref: Ref, verify: bool = False) -> Path:
        folder = self.cache / manifest.checked_name(ref.digest)
        if self._cached(folder, ref, verify):
            return folder
        prefix = ref.uri.removeprefix(self.uri).strip("/")
        found = self.found.pop(prefix, None)
        if found is None or found.digest != ref.digest:
            found = self._manifest(prefix)
        if found is None or found.digest != ref.digest:
            raise StoreError(f"{ref.uri}: the output is gone or was replaced; run again to make it anew")
        arriving = self.cache / ".arriving" / secrets.token_hex(8)
        with explained(folder):
            sweep(arriving.parent, "*")
            arriving.mkdir(parents=True)
            try:
                self._download(found, prefix, folder, arriving)
            finally:
                shutil.rmtree(arriving, ignore_errors=True)
        return folder

    def _cached(self, folder: Path, ref: Ref, verify: bool) -> bool:
        """Whether the cache holds the output whole; a damaged copy, and one without a manifest, is fetched again."""
        try:
            found = Manifest.parse((folder / manifest.NAME).read_bytes())
        except (OSError, ManifestError):
            return False
        return found.digest == ref.digest and not damaged_since(folder, found, self.cache / ".checked" / ref.digest, verify)

    def _download(self, found: Manifest, prefix: str, folder: Path, arriving: Path) -> None:
        """Bring what is missing or damaged in `folder`, file by file.

        Each arrives under a name of this process alone, is checked, and takes its place in one step: others may fetch the same, or read
        what is there, at the same time.
        """
        for name in found.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._each(lambda name: self._bring(found, prefix, folder, arriving, name), found.damaged(folder))
        for path in {(folder / name).parent for name in found.files} | {folder}:
            sync(path)
        replace_text(folder / manifest.NAME, found.to_json())

    def _bring(self, found: Manifest, prefix: str, folder: Path, arriving: Path, name: str) -> None:
        entry = found.files[name]
        fresh = arriving / hashlib.sha256(name.encode()).hexdigest()
        for _ in range(DOWNLOADS):
            self.get_file(f"{prefix}/{name}", fresh)
            if holds(fresh, entry):
                sync(fresh)
                fresh.replace(folder / name)
                return
        place = f"{self.uri}/{prefix}"
        raise StoreError(
            f"{place}/{name}: damaged since it was published (expected sha256 {entry.sha256}, asked {DOWNLOADS} times); "
            f"remove {place} from the bucket and run again"
        )

    def check_bucket(self) -> None:
        """Raise StoreError unless the bucket is there and the keys are accepted."""
        if not self._try("look for the bucket", lambda: self.client.bucket_exists(bucket_name=self.bucket)):
            raise MissingObjectError(f"store {self.uri}: {NO_BUCKET}")

    def list(self, prefix: str = "") -> list[str]:
        return sorted(self.list_facts(prefix))

    def list_facts(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """Object name -> bytes and etag."""
        start = self._name(prefix)
        cut = len(self.base) + 1 if self.base else 0
        objects = self._try("list", lambda: [*self.client.list_objects(bucket_name=self.bucket, prefix=start, recursive=True)])
        return {str(o.object_name)[cut:]: (int(o.size or 0), (o.etag or "").strip('"')) for o in objects}

    def put_file(self, path: Path, name: str) -> None:
        with explained(path):
            self._try(f"put {name}", lambda: self.uploader.put(path, self._name(name)))

    def get_file(self, name: str, path: Path) -> None:
        with explained(path):
            self._try(f"get {name}", lambda: self._get(self._name(name), path))

    def _get(self, name: str, path: Path) -> None:
        # Not fget_object, which asks twice: what arrived is compared with the manifest.
        response = self.client.get_object(bucket_name=self.bucket, object_name=name)
        try:
            with path.open("wb") as file:
                for block in response.stream(1 << 20):
                    file.write(block)
                arrived = file.tell()
            _check_length(arrived, response)
        finally:
            response.close()
            response.release_conn()

    def remove(self, prefix: str) -> None:
        names = self.list(prefix)
        # The manifest goes first: from then on the output does not exist.
        for name in sorted(names, key=lambda n: not n.endswith(manifest.NAME)):
            self._try(f"remove {name}", partial(self.client.remove_object, bucket_name=self.bucket, object_name=self._name(name)))

    def _manifest(self, prefix: str) -> Manifest | None:
        """None where there is none. Raises StoreError where something else lies there, or a proxy answers in the store's place."""
        try:
            return self._try(f"get {prefix}/{manifest.NAME}", lambda: self._read_manifest(prefix))
        except MissingObjectError:
            return None

    def _read_manifest(self, prefix: str) -> Manifest:
        text = self._read(f"{prefix}/{manifest.NAME}")
        try:
            found = Manifest.parse(text)
            if found.key != prefix.rpartition("/")[2]:
                raise ManifestError("its key is not that of the prefix")
        except ManifestError as error:
            begins = " ".join(text[:60].decode("utf-8", "replace").split())
            raise OddAnswerError(
                f"not the manifest of an output ({error}); it begins with {begins!r}",
                f"check that the endpoint is the object store itself; if it is, remove {self.uri}/{prefix} from the bucket and run again",
            ) from None
        return found

    def _read(self, name: str) -> bytes:
        response = self.client.get_object(bucket_name=self.bucket, object_name=self._name(name))
        try:
            text = bytes(response.read(LARGEST_MANIFEST))
            _check_length(len(text), response)
            return text
        finally:
            response.close()
            response.release_conn()

    def _name(self, name: str) -> str:
        return f"{self.base}/{name}".strip("/") if self.base else name

    def _try(self, what: str, action: Callable[[], T]) -> T:
        return retried(f"store {self.uri}", what, action)


def _check_length(arrived: int, response: BaseHTTPResponse) -> None:
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and arrived < min(int(length), LARGEST_MANIFEST):
        raise OddAnswerError(f"{arrived} of {length} bytes arrived")
