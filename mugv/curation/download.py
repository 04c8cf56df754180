"""One source of S3 or the web to a local file, in as many connections as it takes: one that breaks goes on where it stopped."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mugv.curation.sources import SourceFile
from mugv.curation.sources_s3 import split_uri
from mugv.errors import StoreError

if TYPE_CHECKING:
    from minio import Minio
    from requests import Session
    from urllib3 import BaseHTTPResponse

CHUNK = 1 << 20
CONNECT_SECONDS, READ_SECONDS = 10, 300
NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
BUSY = {408, 425, 429}
"""Answers of a web server that pass, beside all of 5xx."""


@dataclass(frozen=True)
class Lost:
    """Why there is no file: a rejection reason (vanished | unreadable) and its detail."""

    reason: str
    detail: str


class LostError(Exception):
    """The source cannot be had, now or later."""

    def __init__(self, lost: Lost) -> None:
        super().__init__(lost.detail)
        self.lost = lost


Opener = Callable[[int], "BaseHTTPResponse"]
"""The answer with the source's bytes from an offset on; without a header Content-Range it begins at 0 all the same."""


def changed(how: str) -> Lost:
    """It is not what the list or the first connection said."""
    return Lost("unreadable", f"changed since it was listed ({how})")


def download(source: SourceFile, path: Path, opened: Opener, stop: threading.Event) -> None:
    """Raises LostError when the source is gone, another one or forbidden, or `stop` is set; StoreError when its server stays away."""
    from mugv.store.s3_client import MissingObjectError, retried

    file = _Partly(source, path, opened, stop)
    path.write_bytes(b"")
    while True:
        before = path.stat().st_size
        try:
            return retried(f"source {source.uri}", "get", file.go_on)
        except MissingObjectError:
            raise LostError(Lost("vanished", "the object is not there any more")) from None
        except StoreError as error:
            if getattr(error.__cause__, "code", "") == "AccessDenied":
                raise LostError(Lost("unreadable", "access to the object is denied")) from None
            if path.stat().st_size <= before:
                raise


class _Partly:
    """What has come so far."""

    def __init__(self, source: SourceFile, path: Path, opened: Opener, stop: threading.Event) -> None:
        self.source, self.path, self.opened, self.stop = source, path, opened, stop
        self.etag = source.etag
        self.total = -1

    def go_on(self) -> None:
        offset = self.path.stat().st_size
        if offset == self.total:
            return
        with closing(self.opened(offset)) as response:
            if "Content-Range" not in response.headers:
                offset = 0
            self._check(response.headers.get("ETag", "").strip('"'), offset + int(response.headers.get("Content-Length", -1 - offset)))
            with self.path.open("r+b") as file:
                file.truncate(offset)
                file.seek(offset)
                for piece in response.stream(CHUNK):
                    if self.stop.is_set():
                        raise LostError(Lost("unreadable", "stopped"))
                    file.write(piece)

    def _check(self, etag: str, total: int) -> None:
        """`total`: bytes of the whole, -1 when the server does not say."""
        if self.etag and etag and etag != self.etag:
            raise LostError(changed(f"etag {self.etag}, now {etag}"))
        if self.source.bytes and total >= 0 and total != self.source.bytes:
            raise LostError(changed(f"{self.source.bytes} bytes, now {total}"))
        self.etag, self.total = etag or self.etag, total


def s3_opener(client: Minio, uri: str) -> Opener:
    """Of an object."""
    bucket, key = split_uri(uri)

    def opened(offset: int) -> BaseHTTPResponse:
        from minio.error import S3Error

        try:
            return client.get_object(bucket_name=bucket, object_name=key, offset=offset)
        except S3Error as error:
            if error.code == "InvalidRange":
                raise LostError(changed(f"it is shorter than {offset + 1} bytes")) from None
            raise

    return opened


def web_session() -> Session:
    """Proxies, certificates and .netrc as the environment says."""
    import requests

    from mugv import __version__

    session = requests.Session()
    session.headers.update({"User-Agent": f"mugv/{__version__}", "Accept-Encoding": "identity"})
    return session


def web_opener(session: Session, uri: str) -> Opener:
    """Of a file on a web server."""

    def opened(offset: int) -> BaseHTTPResponse:
        import requests
        from urllib3.exceptions import HTTPError

        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            response = session.get(uri, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS))
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.TooManyRedirects) as error:
            raise LostError(Lost("unreadable", str(error))) from None
        except requests.RequestException as error:
            *_, first = _causes(error)
            # A name server that knows the name not to exist; one that is away says something else.
            if isinstance(first, socket.gaierror) and first.errno in NO_SUCH_HOST:
                raise LostError(Lost("vanished", f"there is no host {urlsplit(uri).hostname!r}")) from None
            raise HTTPError(getattr(first, "strerror", None) or str(first)) from None
        if response.status_code in (200, 206):
            return response.raw
        with response:
            _refuse(response.status_code, response.reason, offset)
        raise AssertionError("unreachable")

    return opened


def _refuse(status: int, said: str, offset: int) -> None:
    """Raises LostError for an answer that stays, urllib3's HTTPError for one that passes."""
    from urllib3.exceptions import HTTPError

    answer = f"the server answers {status} {said}".rstrip()
    if status in BUSY or status >= 500:
        raise HTTPError(answer)
    if status == 416:
        raise LostError(changed(f"it is shorter than {offset + 1} bytes"))
    raise LostError(Lost("vanished" if status in (404, 410) else "unreadable", answer))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the first cause last; libraries keep that in different places."""
    cause: Any = error
    while isinstance(cause, BaseException):
        yield cause
        kept = (getattr(cause, "reason", None), next(iter(cause.args), None), cause.__cause__, cause.__context__)
        cause = next((found for found in kept if isinstance(found, BaseException)), None)
