"""One source of S3 or the web to a local file, in as many connections as it takes: one that breaks goes on where it stopped."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mugv.curation.sources import SourceFile
from mugv.curation.sources_s3 import split_uri
from mugv.errors import StoreError

if TYPE_CHECKING:
    from minio import Minio

T = TypeVar("T")
CHUNK = 1 << 20
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)


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


@dataclass(frozen=True)
class Answer:
    """A server's answer with the source's bytes."""

    headers: Mapping[str, str]
    """Whatever their case."""
    pieces: Iterator[bytes]
    close: Callable[[], None]
    partial: bool
    """Not from the start, but from the byte that Content-Range says."""


class Origin(Protocol):
    """Where a source comes from."""

    def open(self, offset: int, version: str) -> Answer:
        """The source from `offset` on, while it is still of that version, else from 0."""
        ...

    def retried(self, action: Callable[[], T]) -> T:
        """Do `action` until it comes to an end. Raises StoreError when the server stays away."""
        ...


def changed(how: str) -> Lost:
    """It is not what the list or the first connection said."""
    return Lost("unreadable", f"changed since it was listed ({how})")


def download(source: SourceFile, path: Path, origin: Origin, stop: threading.Event) -> None:
    """Raises LostError when the source is gone, another one or forbidden, or `stop` is set; StoreError when its server stays away."""
    file = _Partly(source, path, origin, stop)
    path.write_bytes(b"")
    while True:
        before = path.stat().st_size
        try:
            return origin.retried(file.go_on)
        except StoreError as error:
            if path.stat().st_size <= before or not getattr(error, "again", True):
                raise


class _Partly:
    """What has come so far."""

    def __init__(self, source: SourceFile, path: Path, origin: Origin, stop: threading.Event) -> None:
        self.source, self.path, self.origin, self.stop = source, path, origin, stop
        self.etag = source.etag
        self.version = ""
        """ETag or Last-Modified of what lies in `path`; without one nothing can be joined to it."""
        self.total = -1

    def go_on(self) -> None:
        """Take what is missing, in as many parts as the server makes of it."""
        offset = self.path.stat().st_size
        while offset != self.total:
            end = self._take(offset if self.version else 0)
            if self.total < 0 or end >= self.total:
                self._check_size(end)
                break
            if end <= offset:
                raise LostError(Lost("unreadable", f"the server sends {end} of {self.total} bytes"))
            offset = end
        if not self.path.stat().st_size:
            raise LostError(Lost("unreadable", "it is empty"))

    def _take(self, asked: int) -> int:
        """One answer, from byte `asked` on, to the file; returns where it ended."""
        with closing(self.origin.open(asked, self.version)) as answer:
            offset = self._start(answer, asked)
            with self.path.open("r+b") as file:
                file.truncate(offset)
                file.seek(offset)
                for piece in answer.pieces:
                    if self.stop.is_set():
                        raise LostError(Lost("unreadable", "stopped"))
                    file.write(piece)
                    self._check_size(file.tell(), at_least=True)
                return file.tell()

    def _start(self, answer: Answer, asked: int) -> int:
        """The byte that the answer begins with; checks that it is of the same file as what came before."""
        length = -1 if "Transfer-Encoding" in answer.headers else _length(answer.headers.get("Content-Length"))
        offset, whole = _range(answer.headers.get("Content-Range", ""), asked) if answer.partial else (0, -1)
        total = whole if whole >= 0 else offset + length if length >= 0 else -1
        etag = answer.headers.get("ETag", "")
        bare = etag.removeprefix("W/").strip('"')
        if self.etag and bare and bare != self.etag:
            raise LostError(changed(f"etag {self.etag}, now {bare}"[:160]))
        self._check_size(total)
        version = (etag if not etag.startswith("W/") else "") or answer.headers.get("Last-Modified", "")
        if offset and ((version and version != self.version) or (self.total >= 0 and total >= 0 and total != self.total)):
            raise LostError(changed("another file came after the connection broke"))
        self.etag, self.version, self.total = bare or self.etag, version or (self.version if offset else ""), total
        return offset

    def _check_size(self, size: int, at_least: bool = False) -> None:
        """`size`: bytes of the whole, -1 when the server does not say; `at_least`: what came of it."""
        known = self.source.bytes
        if known and size >= 0 and (size > known if at_least else size != known):
            raise LostError(changed(f"{known} bytes, now {'more' if at_least else size}"))


def _length(said: str | None) -> int:
    """-1: not said. Raises LostError for what is no number, or two of them."""
    if said is None:
        return -1
    first, *more = [value.strip() for value in said.split(",")]
    if any(value != first for value in more) or not re.fullmatch(r"\d{1,18}", first, re.ASCII):
        raise LostError(Lost("unreadable", f"the server's Content-Length is no number: {said[:40]!r}"))
    return int(first)


def _range(said: str, asked: int) -> tuple[int, int]:
    """First byte and bytes of the whole (-1: not said). Raises LostError for another range than was asked for."""
    found = _RANGE.match(said.strip())
    if not found or int(found[1]) != asked:
        raise LostError(Lost("unreadable", f"the server answers with the range {said[:60]!r}, asked for bytes from {asked} on"))
    return asked, int(found[2]) if found[2] != "*" else -1


class S3Origin:
    """An object."""

    def __init__(self, client: Minio, uri: str) -> None:
        self.client, self.uri = client, uri

    def open(self, offset: int, version: str) -> Answer:
        from minio.error import S3Error

        bucket, key = split_uri(self.uri)
        try:
            response = self.client.get_object(bucket_name=bucket, object_name=key, offset=offset)
        except S3Error as error:
            if error.code == "InvalidRange":
                raise LostError(changed(f"it is shorter than {offset + 1} bytes")) from None
            raise
        return Answer(response.headers, response.stream(CHUNK), response.close, partial="Content-Range" in response.headers)

    def retried(self, action: Callable[[], T]) -> T:
        from mugv.store.s3_client import MissingObjectError, retried

        try:
            return retried(f"source {self.uri}", "get", action)
        except MissingObjectError:
            raise LostError(Lost("vanished", "the object is not there any more")) from None
        except StoreError as error:
            if getattr(error.__cause__, "code", "") == "AccessDenied":
                raise LostError(Lost("unreadable", "access to the object is denied")) from None
            raise
