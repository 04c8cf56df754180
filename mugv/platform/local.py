"""Runs a KFP pipeline on this machine, each task a process, and measures what KFP costs. Used by `mugv run`.

KFP's own talk and the stages' output go to `runs/<run>/kfp.log`; what people see is drawn from the run's records.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mugv.errors import StoreError, UserError
from mugv.platform.records import ERROR_MARK, RunRecord
from mugv.redact import redact
from mugv.store import explained

ROOT = Path(__file__).resolve().parents[2]
SILENT_FAILURES = re.compile(r"Condition evaluation failed|Could not resolve")
"""What kfp.local logs when it cannot evaluate a condition; it then skips the branch as if that were right."""
KILL_AFTER_SECONDS = 15.0
PROGRAM_BYTES = 1 << 18
"""Room that a task's program takes in the temporary folder."""
_TEMPORARY = "free some space there, or set TMPDIR to a folder that has some"
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_RAISED = re.compile(r"^\s*[\w.]+(?:Error|Exception|Interrupt)\b: .+")
"""The last line of a Python traceback."""


class StageFailedError(Exception):
    """A task of the pipeline failed; the message is one line. `by_user`: the user can mend it."""

    def __init__(self, message: str, by_user: bool) -> None:
        super().__init__(redact(message))
        self.by_user = by_user


class RunLog:
    """A text file that takes every line the pipeline prints, without secrets; on a full disk only the last lines stay, in memory.

    `copy`: a stream that gets the lines too.
    """

    def __init__(self, path: Path, copy: TextIO | None = None) -> None:
        self.path, self._copy = path, copy
        self.tail: deque[str] = deque(maxlen=400)
        self._part = ""
        self._file: TextIO | None = path.open("a", buffering=1)

    def write(self, text: str) -> int:
        *lines, self._part = (self._part + text).split("\n")
        self._keep([redact(line) for line in lines])
        return len(text)

    def close(self) -> None:
        """Takes a last line that did not end."""
        self._keep([redact(self._part)] if self._part else [])
        self._part = ""

    def _keep(self, lines: list[str]) -> None:
        self.tail.extend(lines)
        if self._copy:
            self._copy.writelines(f"{line}\n" for line in lines)
        if self._file:
            try:
                self._file.writelines(f"{line}\n" for line in lines)
            except OSError:
                self._file = None

    def flush(self) -> None:
        if self._file:
            with suppress(OSError):
                self._file.flush()

    def isatty(self) -> bool:
        return False

    def find(self, pattern: re.Pattern[str]) -> str:
        """The last line that matches, or ""."""
        return next((line.strip() for line in reversed(self.tail) if pattern.search(line)), "")


@dataclass(frozen=True)
class Overhead:
    """What running the tasks as KFP tasks cost, a task: time outside of the tasks' processes, and their start and imports."""

    tasks: int
    seconds: float
    import_seconds: float


def run_pipeline(pipeline: Callable[[], Any], record: RunRecord, env: dict[str, str], log_copy: TextIO | None = None) -> Overhead:
    """Run to the end; what the pipeline prints goes to kfp.log, and to `log_copy`.

    Raises StageFailedError, StoreError for a full or read-only disk, and KeyboardInterrupt after stopping the tasks.
    """
    from kfp import local

    log = RunLog(record.folder / "kfp.log", log_copy)
    with explained(record.folder), _temporary_folder() as scratch, _environment(env), _stopping_children():
        # kfp deletes its workspace after every run, so it gets a folder of its own and never one that holds data.
        root = str(record.folder / "kfp")
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, workspace_root=scratch, raise_on_error=True)
        began = time.time()
        try:
            with closing(log), redirect_stdout(log), redirect_stderr(log):  # type: ignore[type-var]
                pipeline()
        except Exception as error:
            raise _failure(record, log, error) from error
    skipped = log.find(SILENT_FAILURES)
    if skipped:
        raise StageFailedError(f"kfp skipped a branch whose condition it could not evaluate: {skipped}; see {log.path}", by_user=False)
    return measure(record, time.time() - began)


def _failure(record: RunRecord, log: RunLog, error: Exception) -> Exception:
    """The most telling account of a failed task: its record, else the line it printed, else its death, else KFP's words."""
    for stage in record.stages():
        if stage["status"] == "failed":
            where = "" if stage.get("user_error") else f"stage {stage['node']}: "
            hint = "" if stage.get("user_error") else f"; traceback in {log.path}"
            return StageFailedError(f"{where}{stage['error']}{hint}", bool(stage.get("user_error")))
    printed = log.find(re.compile(re.escape(ERROR_MARK)))
    if printed:
        return StageFailedError(printed.partition(ERROR_MARK)[2], by_user=True)
    dead = [stage["node"] for stage in record.stages() if stage["status"] == "running"]
    if dead:
        return StageFailedError(
            f"stage {', '.join(dead)}: its process was killed; run again, it goes on from its last checkpoint", by_user=False
        )
    if log.find(_FULL):
        return StageFailedError(f"{log.find(_FULL)}; {_TEMPORARY}", by_user=True)
    if isinstance(error, UserError | OSError):
        return error
    told = log.find(_RAISED) or f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return StageFailedError(f"{told}; see {log.path}", by_user=False)


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """A folder for kfp, with room for the programs that its tasks write there."""
    with ExitStack() as stack:
        try:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="kfp-"))
            (Path(scratch) / "probe").write_bytes(bytes(PROGRAM_BYTES))
        except OSError as error:
            raise StoreError(f"temporary folder {tempfile.gettempdir()}: {error.strerror}; {_TEMPORARY}") from error
        (Path(scratch) / "probe").unlink()
        yield scratch


def measure(record: RunRecord, wall: float) -> Overhead:
    """Time outside of all task processes counts as KFP's; from a process's start to `component_main` counts as imports."""
    timings = [stage["timing"] for stage in record.stages() if "timing" in stage]
    busy, end = 0.0, 0.0
    for start, left in sorted((t["process"], t["left"]) for t in timings):
        busy += max(0.0, left - max(start, end))
        end = max(end, left)
    tasks = max(1, len(timings))
    imports = sum(t["entered"] - t["process"] for t in timings) / tasks
    return Overhead(len(timings), round((wall - busy) / tasks, 3), round(imports, 3))


@contextmanager
def _environment(env: dict[str, str]) -> Iterator[None]:
    """Set variables for the tasks' processes, and put this installation on their path."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    before = dict(os.environ)
    os.environ.update(env, PYTHONPATH=path, PYTHONUNBUFFERED="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _stopping_children() -> Iterator[None]:
    """On SIGINT or SIGTERM end the tasks' processes first, then raise KeyboardInterrupt; kfp's threads wait for their tasks."""

    def stop(number: int, frame: object) -> None:
        stop_children(KILL_AFTER_SECONDS)
        raise KeyboardInterrupt(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_children(patience: float) -> None:
    """End every process below this one: asked first, killed after `patience` seconds."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=patience)
    for child in alive:
        print(f"process {child.pid} did not end in {patience:g} s and is killed", file=sys.__stderr__)
        with suppress(psutil.NoSuchProcess):
            child.kill()
