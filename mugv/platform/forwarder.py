"""Sends what stages leave in a run's records to MLflow: a nested run a stage, its parameters, live curves, data sets, artifacts.

records + metrics.jsonl  --Forwarder (a daemon thread)-->  MLflow.   Nothing of a run waits for MLflow or fails with it: what
could not be sent stays in the run's folder, and the next run sends it. How far each stage got is in `runs/<run>/tracking/`.
A run is sent before the older ones, and an older one that MLflow does not take is left out: it stops nothing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mugv.platform.datasets import run_dataset
from mugv.platform.parent_run import parent_run, sent_file
from mugv.platform.records import RunRecord, all_runs, told, write_json
from mugv.platform.run_summary import note, numbers, parameters
from mugv.platform.stage_sender import StageSender, sent_so_far
from mugv.platform.tracking import Tracking
from mugv.redact import redact

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 30.0
PATIENCE, PATIENCE_WHEN_STOPPED = 60.0, 5.0
"""Seconds that the end of a run, or of a stage, waits for MLflow."""
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}
STALE_SECONDS = 48 * 3600.0
"""A cluster's run of which nobody wrote a word for so long has ended without its last task."""
Older = Callable[[], list[RunRecord]]


class Forwarder:
    """Context manager: a daemon thread that keeps MLflow up to date with one run's records, and with what older runs left."""

    def __init__(
        self, tracking: Tracking, record: RunRecord, parent: str = "", only: str | None = None, older: Older | None = None
    ) -> None:
        self.tracking = tracking
        self.record = record
        self.parent = parent
        self.only = only
        self.older = older
        """Gives the earlier runs with unsent records; None: leave them."""
        self.problem = ""
        """Why the last try failed, in one line; "" when all is sent."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="mlflow-forwarder", daemon=True)

    def __enter__(self) -> Forwarder:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # A process that is stopped has a grace period to keep; the records stay.
        self.close(PATIENCE if kind is None or issubclass(kind, Exception) else PATIENCE_WHEN_STOPPED)

    def close(self, patience: float = PATIENCE) -> bool:
        """Send what is left; True when MLflow has everything. Called with the run ended."""
        self._stop.set()
        self._thread.join(patience)
        if self._thread.is_alive():
            self.problem = self.problem or f"{self.tracking.shown} is slow to answer"
            return False
        return not self.problem

    def _loop(self) -> None:
        wait = POLL_SECONDS
        while not self._stop.wait(wait):
            wait = POLL_SECONDS if self.attempt() else min(2 * wait, LONGEST_WAIT_SECONDS)
        self.attempt()

    def attempt(self) -> bool:
        """One pass over the records; any trouble with the server is kept for the report and tried again."""
        try:
            self.send()
        except Exception as error:  # MLflow's clients raise their own, requests' and SQLAlchemy's errors
            self.problem = _line(error)
            return False
        self.problem = ""
        return True

    def send(self) -> None:
        """Bring MLflow up to the present state of the records. Raises what the MLflow client raises."""
        parent, run = self.start_parent(), self.record.read()
        stages = [stage for stage in self.record.stages() if told(stage.get("stage", ""), run.get("shards", 0))]
        refused = [error for stage in stages if self.only in (None, stage["node"]) if (error := self._send_stage(parent, stage))]
        # A run that ended once may have been taken up again and ended anew.
        if not self.only and run.get("ended") and self._sent().get("ended") != run["ended"]:
            self._end_parent(parent, run)
        if self.older:
            self._send_older(self.older())
            self.older = None
        if refused:
            raise refused[0]

    def _send_stage(self, parent: str, stage: dict[str, Any]) -> Exception | None:
        """What MLflow does not take of one stage must not keep back the others."""
        try:
            StageSender(self.tracking, self.record, parent, stage).send()
        except Exception as error:
            if not _of_the_records(error):
                raise
            return error
        return None

    def _send_older(self, runs: list[RunRecord]) -> None:
        """A run whose records MLflow does not take is told once and left; a server that is away ends the round."""
        for earlier in runs:
            tracked: bool | str = True
            try:
                Forwarder(self.tracking, earlier).send()
            except Exception as error:
                if not _of_the_records(error):
                    raise
                tracked = _line(error)
                logger.warning("%s: MLflow does not take its records (%s); they stay there", earlier.folder, tracked)
            earlier.update(tracked=tracked)

    def start_parent(self) -> str:
        """The MLflow run of the whole run, made at the first success."""
        return parent_run(self.tracking, self.record, self.parent)

    def _end_parent(self, parent: str, run: dict[str, Any]) -> None:
        for name in ("report.html", "recipe.json"):
            if (self.record.folder / name).is_file():
                self.tracking.client.log_artifact(parent, str(self.record.folder / name))
        self._summarise(parent, run)
        self.tracking.client.set_terminated(parent, STATUS.get(run.get("status", ""), "FAILED"), int(run["ended"] * 1000))
        self._remember(ended=run["ended"])

    def _summarise(self, parent: str, run: dict[str, Any]) -> None:
        """What the list of runs and the run's own page show."""
        from mlflow.entities import Metric, Param, RunTag

        ended = int(run["ended"] * 1000)
        metrics = [Metric(name, value, ended, 0) for name, value in numbers(self.record).items() if math.isfinite(value)]
        params = [Param(name, value[:6000]) for name, value in parameters(self.record).items()]
        self.tracking.client.log_batch(parent, metrics=metrics, params=params, tags=[RunTag("mlflow.note.content", note(self.record))])
        if videos := run_dataset(run, "training"):
            self.tracking.client.log_inputs(parent, datasets=[videos])

    def _sent(self) -> dict[str, Any]:
        return sent_so_far(sent_file(self.record))

    def _remember(self, **fields: Any) -> None:
        write_json(sent_file(self.record), {**self._sent(), **fields})


def unsent_runs(state: Path, but: str) -> list[RunRecord]:
    """Ended runs whose records MLflow has not got yet, oldest first. Stages that died without a word are marked killed."""
    waiting = [r for r in all_runs(state) if r.run != but and r.read().get("tracked") is False]
    for run in waiting:
        mark_dead(run)
    return waiting[::-1]


def left_runs(state: Path, but: str) -> list[RunRecord]:
    """As unsent_runs, for a state that many runs share at once: those that have ended, and those that nobody ended."""
    waiting = [r for r in all_runs(state) if r.run != but and r.read().get("tracked") is False]
    stale = [r for r in waiting if not r.read().get("ended") and time.time() - _last_word(r) > STALE_SECONDS]
    for run in stale:
        mark_dead(run)
    return [r for r in waiting if r.read().get("ended")][::-1]


def _last_word(run: RunRecord) -> float:
    return max(path.stat().st_mtime for path in (run.folder, *run.folder.glob("*.json"), *run.folder.glob("*/*.json")))


def mark_dead(run: RunRecord) -> None:
    """Give an end to the run and its stages whose processes are gone. Call when nobody works on it."""
    record = run.read()
    for stage in run.stages():
        if stage["status"] == "running":
            run.update_stage(stage["node"], status="killed", error="its process was killed", ended=stage.get("started", 0))
    if not record.get("ended"):
        run.update(status="killed", ended=record.get("started", time.time()))


def _of_the_records(error: Exception) -> bool:
    """Whether an error says that these records cannot be sent, whatever the server does."""
    if isinstance(error, (KeyError, TypeError, ValueError, AttributeError)) and not isinstance(error, OSError):
        return True
    if type(error.__cause__).__name__ in ("IntegrityError", "DataError"):
        return True
    code = getattr(error, "error_code", "")
    return code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")


def _line(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {error}".splitlines()[0])[:200]
