"""Files of sources, one after the other: local ones where they lie, S3 objects downloaded one ahead of whoever decodes them.

At most two objects are on the disk at a time. A connection that breaks goes on where it stopped. A source that cannot be had is
a `Lost` with its reason; a server that stays away or refuses the keys ends the run, which goes on from there the next time.
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mugv.curation import sources_s3
from mugv.curation.sources import SourceFile
from mugv.curation.sources_list import local_path
from mugv.errors import StoreError

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import BaseHTTPResponse

CHUNK = 1 << 20


@dataclass(frozen=True)
class Lost:
    """Why there is no file: a rejection reason (vanished | unreadable) and its detail."""

    reason: str
    detail: str


Fetched = tuple[SourceFile, Path | Lost]


def fetched(sources: Sequence[SourceFile], base: Path | None, scratch: Path) -> Iterator[Fetched]:
    """Every source with its file, in order; a downloaded file is removed when the next one is asked for.

    `base`: see mugv.curation.sources_read.base_folder. `scratch` is emptied first. Raises StoreError when a server stays away.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    with closing(_Ahead(base, scratch)) as ahead:
        waiting: deque[tuple[SourceFile, Future[Path | Lost]]] = deque()
        for source in sources:
            waiting.append((source, ahead.start(source)))
            if len(waiting) > 1:
                yield from _handed_out(waiting.popleft(), scratch)
        while waiting:
            yield from _handed_out(waiting.popleft(), scratch)


def _handed_out(entry: tuple[SourceFile, Future[Path | Lost]], scratch: Path) -> Iterator[Fetched]:
    source, future = entry
    got = future.result()
    try:
        yield source, got
    finally:
        if isinstance(got, Path) and got.parent == scratch:
            got.unlink(missing_ok=True)


class _Ahead:
    """One thread that fetches; closing it stops a download at its next piece."""

    def __init__(self, base: Path | None, scratch: Path) -> None:
        self.base = base
        self.scratch = scratch
        self.pool = ThreadPoolExecutor(1)
        self.stop = threading.Event()
        self.client: Minio | None = None
        self.count = 0

    def start(self, source: SourceFile) -> Future[Path | Lost]:
        self.count += 1
        return self.pool.submit(self._fetch, source, self.count)

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown(cancel_futures=True)

    def _fetch(self, source: SourceFile, number: int) -> Path | Lost:
        if not source.uri.startswith(sources_s3.SCHEME):
            return _local(source, self.base)
        self.client = self.client or sources_s3.client(source.uri)
        self.scratch.mkdir(parents=True, exist_ok=True)
        # The suffix helps the demuxer to guess formats without a signature.
        path = self.scratch / f"{number}{Path(source.uri).suffix.lower()}"
        try:
            _Download(self.client, source, path, self.stop).run()
        except _LostError as error:
            path.unlink(missing_ok=True)
            return error.lost
        return path


def _local(source: SourceFile, base: Path | None) -> Path | Lost:
    path = local_path(source.uri or source.name, base, source.name)
    try:
        size = path.stat().st_size
    except OSError as error:
        return Lost("vanished", f"the file is not there ({error.strerror})")
    return _changed(f"{source.bytes} bytes, now {size}") if source.bytes not in (0, size) else path


class _LostError(Exception):
    def __init__(self, lost: Lost) -> None:
        super().__init__(lost.detail)
        self.lost = lost


def _changed(how: str) -> Lost:
    return Lost("unreadable", f"changed since it was listed ({how})")


class _Download:
    """One object to a file, in as many connections as it takes."""

    def __init__(self, client: Minio, source: SourceFile, path: Path, stop: threading.Event) -> None:
        self.client = client
        self.source = source
        self.path = path
        self.stop = stop
        self.bucket, self.key = sources_s3.split_uri(source.uri)
        self.etag = source.etag
        self.total = -1

    def run(self) -> None:
        """Raises _LostError when the object is gone, another one or forbidden; StoreError."""
        from mugv.store.s3_client import MissingObjectError, retried

        self.path.write_bytes(b"")
        while True:
            before = self.path.stat().st_size
            try:
                return retried(f"source {self.source.uri}", "get", self._go_on)
            except MissingObjectError:
                raise _LostError(Lost("vanished", "the object is not there any more")) from None
            except StoreError as error:
                if getattr(error.__cause__, "code", "") == "AccessDenied":
                    raise _LostError(Lost("unreadable", "access to the object is denied")) from None
                if self.path.stat().st_size == before:
                    raise

    def _go_on(self) -> None:
        offset = self.path.stat().st_size
        if offset == self.total:
            return
        with self._opened(offset) as response, self.path.open("ab") as file:
            etag = response.headers.get("ETag", "").strip('"')
            if self.etag and etag != self.etag:
                raise _LostError(_changed(f"etag {self.etag}, now {etag}"))
            self.etag = etag
            self.total = offset + int(response.headers.get("Content-Length", -1 - offset))
            for piece in response.stream(CHUNK):
                if self.stop.is_set():
                    raise _LostError(Lost("unreadable", "stopped"))
                file.write(piece)

    def _opened(self, offset: int) -> closing[BaseHTTPResponse]:
        from minio.error import S3Error

        try:
            response = self.client.get_object(bucket_name=self.bucket, object_name=self.key, offset=offset)
        except S3Error as error:
            if error.code == "InvalidRange":
                raise _LostError(_changed(f"it is shorter than {offset + 1} bytes")) from None
            raise
        return closing(response)
