"""A source on a web server: connections that can be cut, redirects looked at one by one, answers that pass told from those that stay.

Nothing that a server does costs more than its own source: it may be silent, drip, never end, redirect in circles or to where the
list's author has no business, and answer with any header.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from mugv.curation.download import Answer, Lost, LostError, changed
from mugv.curation.retry_after import seconds_of
from mugv.curation.web_connections import FAR, new_session, scope_of
from mugv.errors import ServiceAwayError
from mugv.recipe.fetch import Fetch
from mugv.redact import redact

if TYPE_CHECKING:
    from requests import Response

T = TypeVar("T")
CHUNK = 1 << 20
CONNECT_SECONDS = 10
REDIRECTS = 5
LEAST_BYTES_A_SECOND = 1000
LONGEST_PAUSE_SECONDS = 120.0
"""A server that asks for a longer one (Retry-After) is away."""
NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
BUSY = {408, 425, 429}
"""Answers that pass, beside all of 5xx."""


class StalledError(ServiceAwayError):
    """The server is there and sends next to nothing, or does not want to be asked now."""

    again = False


class PassingError(Exception):
    """This connection brought nothing; another may. `wait`: seconds that the server asks for."""

    def __init__(self, said: str, wait: float | None = None) -> None:
        super().__init__(said)
        self.wait = wait


class WebOrigin:
    """The way to one file. A context manager: a thread of its own cuts the connections when a limit is passed or the run stops."""

    def __init__(self, label: str, uri: str, named: frozenset[str], limits: Fetch, stop: threading.Event) -> None:
        """`label` stands for the source in messages; `named`: hosts of the list, to which redirects may lead wherever they are."""
        self.label, self.uri, self.named, self.limits, self.stop = label, uri, named, limits, stop
        self._session = new_session(self._connected)
        self._sockets: list[socket.socket] = []
        self._left = threading.Event()
        self._ended: Exception | None = None
        self._free, self._scope = True, FAR
        self._began = self._mark = time.monotonic()
        self._bytes = 0
        self._watch = threading.Thread(target=self._watched, name="download-limits", daemon=True)

    def __enter__(self) -> WebOrigin:
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._watch.join()
        self._session.close()
        for connection in self._sockets:
            connection.close()

    def open(self, offset: int, version: str) -> Answer:
        """The answer from `offset` on if the file is still of that `version` (ETag or Last-Modified), else from the start."""
        headers = {"Range": f"bytes={offset}-", "If-Range": version} if offset else {}
        with self._explained():
            response = self._followed(headers)
        if response.status_code not in (200, 206) or response.headers.get("Content-Encoding", "identity").lower() != "identity":
            with response:
                _refuse(response, offset)
        return Answer(response.headers, self._pieces(response), response.close, partial=response.status_code == 206)

    def retried(self, action: Callable[[], T]) -> T:
        """Do `action`, again with growing pauses, or as long as the server asks for. Raises StoreError."""
        from mugv.store import s3_client

        for attempt in range(s3_client.ATTEMPTS):
            self._rested()
            try:
                return action()
            except PassingError as error:
                pause = max(s3_client.FIRST_WAIT_SECONDS * 2**attempt, error.wait or 0.0)
                if pause > LONGEST_PAUSE_SECONDS:
                    raise StalledError(f"{self.label}: {error}, and to come back in {pause:,.0f} s; run again then") from error
                if attempt + 1 == s3_client.ATTEMPTS:
                    raise ServiceAwayError(f"{self.label}: get failed {attempt + 1} times ({error}); run again when it is back") from error
            self.stop.wait(pause)
        raise AssertionError("unreachable")

    def _followed(self, headers: dict[str, str]) -> Response:
        uri, self._free = self.uri, True
        self._scope = scope_of(urlsplit(uri).hostname or "") or FAR
        for _ in range(1 + REDIRECTS):
            read = self.limits.stalled_seconds + CONNECT_SECONDS
            response = self._session.get(uri, headers=headers, stream=True, allow_redirects=False, timeout=(CONNECT_SECONDS, read))
            target = self._session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            uri = self._allowed(urljoin(uri, target))
        raise LostError(Lost("unreadable", f"more than {REDIRECTS} redirects"))

    def _allowed(self, uri: str) -> str:
        """A redirect's address. Raises LostError for one that is not of the web; a host's address is looked at when it is connected."""
        address = urlsplit(uri)
        host = (address.hostname or "").rstrip(".")
        if address.scheme not in ("http", "https") or not host:
            raise LostError(Lost("unreadable", f"redirected to {redact(uri)}, which is no address of the web"))
        self._free = host in self.named
        self._look_at(host, scope_of(host))
        return uri

    def _connected(self, connection: socket.socket, direct: bool) -> None:
        """Of every new connection, before anything is sent on it. `direct`: not to a proxy."""
        self._sockets.append(connection.dup())
        if self._ended:
            raise OSError("ended")
        if direct:
            peer = connection.getpeername()[0]
            self._look_at(peer, scope_of(peer))
            self._scope = scope_of(peer) or FAR

    def _look_at(self, host: str, scope: int | None) -> None:
        if not self._free and scope is not None and scope > self._scope:
            raise LostError(Lost("unreadable", f"redirected to {host}, an address of a private network that the list does not name"))

    def _pieces(self, response: Response) -> Iterator[bytes]:
        """What comes, as it comes."""
        largest, total = self.limits.maximum_gigabytes * 1e9, 0
        while True:
            with self._explained():
                piece = response.raw.read1(CHUNK)
            if not piece:
                return
            self._bytes += len(piece)
            total += len(piece)
            if total > largest:
                raise LostError(Lost("unreadable", f"larger than {self.limits.maximum_gigabytes:g} GB (data.fetch.maximum_gigabytes)"))
            yield piece

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What a server makes its client raise becomes the end that the watch set, a PassingError or a LostError."""
        try:
            yield
        except (LostError, PassingError):
            raise
        except Exception as error:  # requests, urllib3, http.client and the codecs raise their own, also for odd headers
            if self._ended:
                raise self._ended from error
            raise _understood(error, self.uri) from error
        if self._ended:
            raise self._ended

    def _rested(self) -> None:
        """A pause is no stall."""
        self._mark, self._bytes = time.monotonic(), 0
        if self.stop.is_set():
            raise LostError(Lost("unreadable", "stopped"))
        if self._ended:
            raise self._ended

    def _watched(self) -> None:
        while not self._left.wait(min(0.2, self.limits.stalled_seconds / 4)):
            self._ended = self._ended or self._passed(time.monotonic())
            if self._ended:
                for connection in list(self._sockets):
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def _passed(self, now: float) -> Exception | None:
        """What must end the download now, if anything."""
        limits = self.limits
        if self.stop.is_set():
            return LostError(Lost("unreadable", "stopped"))
        if now - self._began > limits.maximum_seconds:
            return LostError(Lost("unreadable", f"not there after {limits.maximum_seconds:g} s (data.fetch.maximum_seconds)"))
        if self._bytes >= LEAST_BYTES_A_SECOND * limits.stalled_seconds:
            self._mark, self._bytes = now, 0
        elif now - self._mark > limits.stalled_seconds:
            rate = f"less than {LEAST_BYTES_A_SECOND:,} bytes a second for {limits.stalled_seconds:g} s (data.fetch.stalled_seconds)"
            return StalledError(f"{self.label}: {rate}; run again when it is better")
        return None


def _understood(error: Exception, uri: str) -> Exception:
    import requests
    from urllib3.exceptions import HTTPError, InvalidHeader, LocationParseError

    causes = list(_causes(error))
    first, shown = causes[-1], redact(getattr(causes[-1], "strerror", None) or str(causes[-1]) or type(causes[-1]).__name__)
    found = next((cause for cause in causes if isinstance(cause, LostError)), None)
    if found:
        return found
    # A name server that knows the name not to exist; one that is away says something else.
    if isinstance(first, socket.gaierror) and first.errno in NO_SUCH_HOST:
        return LostError(Lost("vanished", f"there is no host {urlsplit(uri).hostname!r}"))
    wrong = (ValueError, InvalidHeader, LocationParseError, requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
    passes = isinstance(error, requests.RequestException | HTTPError | OSError) and not any(isinstance(c, wrong) for c in causes[:2])
    return PassingError(shown[:160]) if passes else LostError(Lost("unreadable", f"an answer or address that is none: {shown[:160]}"))


def _refuse(response: Response, offset: int) -> None:
    """Raises LostError for an answer that stays, PassingError for one that passes."""
    status = response.status_code
    if status < 300:
        raise LostError(Lost("unreadable", f"the server sends it as {response.headers.get('Content-Encoding', '')[:40]!r}"))
    answer = f"the server answers {status} {response.reason or ''}".rstrip()[:120]
    if status in BUSY or status >= 500:
        raise PassingError(answer, seconds_of(response.headers.get("Retry-After")))
    if status == 416:
        raise LostError(changed(f"it is shorter than {offset + 1} bytes"))
    raise LostError(Lost("vanished" if status in (404, 410) else "unreadable", answer))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the first cause last; libraries keep that in different places."""
    cause: Any = error
    for _ in range(20):
        if not isinstance(cause, BaseException):
            return
        yield cause
        kept = (getattr(cause, "reason", None), next(iter(cause.args), None), cause.__cause__, cause.__context__)
        cause = next((found for found in kept if isinstance(found, BaseException)), None)
