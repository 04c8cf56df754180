"""A work folder for one try of a task at a time, on a volume that many machines share.

    PLACE/<token>        the work folder of the try that has it
    PLACE/<token>.out    the output in the making
    PLACE/<token>.owner  its time is the heartbeat of that try

A try takes the work of a dead one over by renaming its folder: one of many succeeds, and who had it before finds nothing under the old
name, so that it can neither write there nor publish. Nothing rests on process ids (equal in containers), on clocks (the volume's own
counts) or on file locks: a lock only tells sooner, on the machine of the try that died, what its heartbeat tells everywhere.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from mugv.durable import sweep
from mugv.errors import ServiceAwayError, StoreError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0
"""A heart that has not beaten for so long belongs to a dead try. Should it live after all, it ends as soon as it notices."""
POLL_SECONDS = 0.5
KEEP_NAME = "trainjob.json"
"""A work folder with this file is written by a job outside of the task: who takes it over follows that job, and leaves the name."""
_TOKEN = re.compile(r"[0-9a-f]{16}")
_BEFORE = "pid"
"""In a work folder of releases that had one folder a key and no tokens."""


class Claim:
    """What one try holds; made by `claimed`."""

    def __init__(self, place: Path) -> None:
        self.place, self.token = place, secrets.token_hex(8)
        self.resumed = False
        self.lost = False
        """Another try has taken the work over, since this one's heart had stopped."""
        self._hidden = place.with_name(f".{self.token}")
        self._ended = threading.Event()
        self._descriptor = -1

    @property
    def work(self) -> Path:
        """Survives this try when it fails or is killed: checkpoints and half-done work."""
        return self.place / self.token

    @property
    def out(self) -> Path:
        """Of this try alone."""
        return self.place / f"{self.token}.out"

    @property
    def _owner(self) -> Path:
        return _owner_of(self.work)

    def remove(self) -> None:
        """The work is done: nothing of it stays."""
        self._ended.set()
        done = self.place.with_name(f".{self.token}.done")
        with suppress(FileNotFoundError):
            self.place.rename(done)
        shutil.rmtree(done, ignore_errors=True)

    def _wait(self) -> None:
        """Returns with the work in hand. Raises StoreError where something else lies in its place."""
        self.place.parent.mkdir(parents=True, exist_ok=True)
        sweep(self.place.parent, ".*")
        self._hidden.mkdir()
        told, seen = False, time.monotonic()
        try:
            self._descriptor = _locked_file(_owner_of(self._hidden / self.token))
            while not (self._begin() or self._take_over()):
                if not told:
                    logger.info("%s: another try of this task works on it; waiting for its end", self.place.name[:12])
                told, seen = True, time.monotonic() if _folder_in(self.place) else seen
                if time.monotonic() - seen > LEASE_SECONDS:
                    raise StoreError(f"{self.place}: holds what no stage wrote; move it away")
                time.sleep(POLL_SECONDS)
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)

    def _begin(self) -> bool:
        """Made whole under a hidden name and renamed: this fails where another try was first."""
        (self._hidden / self.token).mkdir(exist_ok=True)
        if (self.place / _BEFORE).is_file():
            with suppress(OSError):
                (self._hidden / self.token).rmdir()
                self.place.rename(self._hidden / self.token)
                self.resumed = True
        try:
            self._hidden.rename(self.place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            return False
        return True

    def _take_over(self) -> bool:
        found = _folder_in(self.place)
        if found is None or self._alive(_owner_of(found)):
            return False
        try:
            if (found / KEEP_NAME).exists():
                self._keep(found)
            else:
                self._rename(found)
        except FileNotFoundError:
            return False
        self.resumed = True
        return True

    def _rename(self, found: Path) -> None:
        """Raises FileNotFoundError when another try was quicker."""
        hidden = _owner_of(self._hidden / self.token)
        hidden.rename(self._owner)
        try:
            found.rename(self.work)
        except FileNotFoundError:
            # A server may repeat a request whose answer was lost: then the second one failed, and the work is here all the same.
            if not self.work.exists():
                self._owner.rename(hidden)
                raise
        _owner_of(found).unlink(missing_ok=True)
        shutil.rmtree(found.with_name(f"{found.name}.out"), ignore_errors=True)

    def _keep(self, found: Path) -> None:
        _owner_of(self._hidden / self.token).replace(_owner_of(found))
        self.token = found.name
        shutil.rmtree(self.out, ignore_errors=True)

    def _alive(self, owner: Path) -> bool:
        try:
            # Opened, not only looked at: a network file system then asks its server for the time.
            descriptor = os.open(owner, os.O_RDONLY)
        except FileNotFoundError:
            return False
        with closing(os.fdopen(descriptor)) as file:
            if file.read() == _machine() and _lock(descriptor, fcntl.LOCK_SH):
                return False
            own = _owner_of(self._hidden / self.token)
            os.utime(own)
            return own.stat().st_mtime - os.fstat(descriptor).st_mtime < LEASE_SECONDS

    def _beat(self) -> None:
        mine = os.fstat(self._descriptor).st_ino
        while not self._ended.wait(BEAT_SECONDS):
            try:
                if self._owner.stat().st_ino != mine:
                    break
                os.utime(self._owner)
            except FileNotFoundError:
                break
            except OSError:
                # The volume is away: for every try alike.
                continue
        if not self._ended.is_set():
            self.lost = True
            # Not SIGTERM: training would write a checkpoint first.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGHUP)


@contextmanager
def claimed(place: Path) -> Iterator[Claim]:
    """Hold the work of one task, after waiting for a live try that holds it. Raises ServiceAwayError when another try has it in the end."""
    claim = Claim(place)
    claim._wait()
    heart = threading.Thread(target=claim._beat, name="claim", daemon=True)
    heart.start()
    try:
        yield claim
    except BaseException as error:
        if claim.lost:
            raise ServiceAwayError(f"{place.name[:12]}: another try of this task has taken its work over; this one ends") from error
        raise
    finally:
        claim._ended.set()
        heart.join()
        # After a failure too: on a full disk this makes room for the record that says so.
        shutil.rmtree(claim.out, ignore_errors=True)
        if not claim.lost:
            claim._owner.unlink(missing_ok=True)
        os.close(claim._descriptor)


def _owner_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.owner")


def _folder_in(place: Path) -> Path | None:
    try:
        return next((p for p in place.iterdir() if _TOKEN.fullmatch(p.name)), None)
    except FileNotFoundError:
        return None


def _locked_file(path: Path) -> int:
    """Descriptor of a new file that names this machine. Nobody sees the file before it is locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(descriptor, _machine().encode())
    _lock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _lock(descriptor: int, kind: int) -> bool:
    """False when another process has it, and where there are no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _machine() -> str:
    """One start of one kernel, which sees the locks of all containers on it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
