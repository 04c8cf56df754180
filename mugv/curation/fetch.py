"""Files of sources, one after the other: local ones where they lie, those of S3 and the web downloaded one ahead of whoever decodes them.

At most two downloads are on the disk at a time. A source that cannot be had is a `Lost` with its reason. An S3 server that stays
away or refuses the keys ends the run; of the web, the sources of a host that stays away are `Away`, and the others go on.
"""

from __future__ import annotations

import logging
import shutil
import stat
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mugv.curation import sources_s3
from mugv.curation.contained import failed, of_the_run
from mugv.curation.download import Lost, LostError, Opener, changed, download, s3_opener, web_opener, web_session
from mugv.curation.sources import SourceFile
from mugv.curation.sources_list import WEB, local_path
from mugv.errors import StoreError

if TYPE_CHECKING:
    from minio import Minio
    from requests import Session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Away:
    """Why there is no file now: another run may get it."""

    detail: str


Got = Path | Lost | Away
Fetched = tuple[SourceFile, Got]


def fetched(sources: Sequence[SourceFile], base: Path | None, scratch: Path) -> Iterator[Fetched]:
    """Every source with its file, in order; a downloaded file is removed when the next one is asked for.

    `base`: see mugv.curation.sources_read.base_folder. `scratch` is emptied first. Raises StoreError when a server stays away.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    with closing(_Ahead(base, scratch)) as ahead:
        waiting: deque[tuple[SourceFile, Future[Got]]] = deque()
        for source in sources:
            waiting.append((source, ahead.start(source)))
            if len(waiting) > 1:
                yield from _handed_out(waiting.popleft(), scratch)
        while waiting:
            yield from _handed_out(waiting.popleft(), scratch)


def _handed_out(entry: tuple[SourceFile, Future[Got]], scratch: Path) -> Iterator[Fetched]:
    source, future = entry
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


class _Ahead:
    """One thread that fetches; closing it stops a download at its next piece."""

    def __init__(self, base: Path | None, scratch: Path) -> None:
        self.base = base
        self.scratch = scratch
        self.pool = ThreadPoolExecutor(1)
        self.stop = threading.Event()
        self.client: Minio | None = None
        self.session: Session | None = None
        self.away: dict[str, Away] = {}
        """Hosts of the web that did not answer: they are not asked again in this run."""
        self.count = 0

    def start(self, source: SourceFile) -> Future[Got]:
        self.count += 1
        return self.pool.submit(self._fetch, source, self.count)

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown(cancel_futures=True)
        if self.session:
            self.session.close()

    def _fetch(self, source: SourceFile, number: int) -> Got:
        if source.uri.startswith(sources_s3.SCHEME):
            self.client = self.client or sources_s3.client(source.uri)
            return self._download(source, self._path(number, source.uri), s3_opener(self.client, source.uri))
        if not source.uri.startswith(WEB):
            return _local(source, self.base)
        self.session = self.session or web_session()
        address = urlsplit(source.uri)
        if address.netloc in self.away:
            return self.away[address.netloc]
        try:
            return self._download(source, self._path(number, address.path), web_opener(self.session, source.uri))
        except StoreError as error:
            return self.away.setdefault(address.netloc, Away(str(error)))

    def _path(self, number: int, name: str) -> Path:
        """The suffix helps the demuxer to guess formats without a signature."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch / f"{number}{Path(name).suffix.lower()}"

    def _download(self, source: SourceFile, path: Path, opened: Opener) -> Path | Lost:
        try:
            download(source, path, opened, self.stop)
        except LostError as error:
            path.unlink(missing_ok=True)
            return error.lost
        except StoreError:
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
