"""Files of sources: local ones where they lie, those of S3 and the web downloaded ahead of whoever decodes them, one at a time from a host.

So a slow host holds back its own sources alone, and no host has more than one connection. Besides the file that is handed out, at
most one of each host and HOSTS in all lie on the disk. A source that cannot be had is a `Lost` with its reason. An S3 server that
stays away or refuses the keys ends the run; of the web, the sources of a host that stays away are `Away`, and the others go on.
"""

from __future__ import annotations

import heapq
import logging
import shutil
import stat
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mugv.curation import sources_s3
from mugv.curation.contained import failed, of_the_run
from mugv.curation.download import Lost, LostError, Origin, S3Origin, changed, download
from mugv.curation.sources import SourceFile
from mugv.curation.sources_list import WEB, local_path
from mugv.errors import StoreError
from mugv.recipe.fetch import Fetch

if TYPE_CHECKING:
    from minio import Minio

HOSTS = 4
"""That are downloaded from at once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Away:
    """Why there is no file now: another run may get it."""

    detail: str


Got = Path | Lost | Away
Fetched = tuple[SourceFile, Got]


def fetched(
    sources: Sequence[SourceFile],
    base: Path | None,
    scratch: Path,
    limits: Fetch | None = None,
    signed: Mapping[str, str] | None = None,
) -> Iterator[Fetched]:
    """Every source with its file, as they come; a downloaded file is removed when the next one is asked for.

    `base`: see mugv.curation.sources_read.base_folder; `signed`: see mugv.curation.sources_list.signed_uris. `scratch` is emptied first.
    Raises StoreError when an S3 server stays away.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    waiting = _Waiting(sources)
    with closing(_Getter(sources, base, scratch, limits or Fetch(), signed or {})) as getter:
        under_way: dict[Future[Got], tuple[int, str]] = {}

        def start() -> None:
            while len(under_way) < HOSTS and (taken := waiting.take()):
                under_way[getter.start(sources[taken[0]])] = taken

        start()
        while under_way:
            done = wait(under_way, return_when=FIRST_COMPLETED).done
            number, host = under_way.pop(first := min(done, key=lambda future: under_way[future]))
            waiting.free(host)
            start()
            yield from _handed_out(sources[number], first, scratch)


def _handed_out(source: SourceFile, future: Future[Got], scratch: Path) -> Iterator[Fetched]:
    try:
        got = future.result()
    except Exception as error:
        if of_the_run(error):
            raise
        log.info("source %r", source.name, exc_info=error)
        got = failed(error)
    try:
        yield source, got
    finally:
        if isinstance(got, Path) and got.parent == scratch:
            got.unlink(missing_ok=True)


class _Waiting:
    """The numbers of the sources that are still to be asked for, by host; a host that was taken must be freed before it is taken again."""

    def __init__(self, sources: Sequence[SourceFile]) -> None:
        self.queues: dict[str, deque[int]] = {}
        for number, source in enumerate(sources):
            self.queues.setdefault(host_of(source.uri), deque()).append(number)
        self.idle = [(queue[0], host) for host, queue in self.queues.items()]
        heapq.heapify(self.idle)

    def take(self) -> tuple[int, str] | None:
        """Number and host of the first source whose host is free."""
        if not self.idle:
            return None
        _, host = heapq.heappop(self.idle)
        return self.queues[host].popleft(), host

    def free(self, host: str) -> None:
        if self.queues[host]:
            heapq.heappush(self.idle, (self.queues[host][0], host))


def host_of(uri: str) -> str:
    """Host and port on the web; one word for everything in S3, "" for local files."""
    if uri.startswith(WEB):
        return urlsplit(uri).netloc.rpartition("@")[2].lower()
    return sources_s3.SCHEME if uri.startswith(sources_s3.SCHEME) else ""


class _Getter:
    """Threads that fetch; closing it stops downloads at once."""

    def __init__(self, sources: Sequence[SourceFile], base: Path | None, scratch: Path, limits: Fetch, signed: Mapping[str, str]) -> None:
        self.base, self.scratch, self.limits, self.signed = base, scratch, limits, signed
        self.named = frozenset(urlsplit(source.uri).hostname or "" for source in sources if source.uri.startswith(WEB))
        self.pool = ThreadPoolExecutor(HOSTS)
        self.stop = threading.Event()
        self.client: Minio | None = None
        self.away: dict[str, Away] = {}
        """Hosts of the web that did not answer: they are not asked again in this run."""
        self.count = 0

    def start(self, source: SourceFile) -> Future[Got]:
        self.count += 1
        return self.pool.submit(self._fetch, source, self.count)

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown(cancel_futures=True)

    def _fetch(self, source: SourceFile, number: int) -> Got:
        if source.uri.startswith(sources_s3.SCHEME):
            self.client = self.client or sources_s3.client(source.uri)
            return self._download(source, self._path(number, source.uri), S3Origin(self.client, source.uri))
        return self._from_web(source, number) if source.uri.startswith(WEB) else _local(source, self.base)

    def _from_web(self, source: SourceFile, number: int) -> Got:
        from mugv.curation.web import WebOrigin

        host, uri = host_of(source.uri), self.signed.get(source.uri) if source.signed else source.uri
        if uri is None:
            return Lost("vanished", "it is not in the list of videos any more")
        if host in self.away:
            return self.away[host]
        try:
            with WebOrigin(f"source {source.uri}", uri, self.named, self.limits, self.stop) as origin:
                return self._download(source, self._path(number, urlsplit(uri).path), origin)
        except StoreError as error:
            return self.away.setdefault(host, Away(str(error)))

    def _path(self, number: int, name: str) -> Path:
        """The suffix helps the demuxer to guess formats without a signature."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch / f"{number}{Path(name).suffix.lower()[:16]}"

    def _download(self, source: SourceFile, path: Path, origin: Origin) -> Path | Lost:
        try:
            download(source, path, origin, self.stop)
        except LostError as error:
            path.unlink(missing_ok=True)
            return error.lost
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path


def _local(source: SourceFile, base: Path | None) -> Path | Lost:
    path = local_path(source.uri or source.name, base, source.name)
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the name.
        return Lost("vanished", f"the file is not there ({getattr(error, 'strerror', None) or error})")
    if not stat.S_ISREG(facts.st_mode):
        return Lost("unreadable", f"not a file but a {'folder' if stat.S_ISDIR(facts.st_mode) else 'pipe or device'}")
    size = facts.st_size
    return changed(f"{source.bytes} bytes, now {size}") if source.bytes not in (0, size) else path
