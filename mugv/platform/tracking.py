"""Sends what stages leave in a run's records to MLflow: a nested run a stage, its parameters, live curves, data sets, artifacts.

records + metrics.jsonl  --Forwarder (a daemon thread)-->  MLflow.   Nothing of a run waits for MLflow or fails with it: what
could not be sent stays in the run's folder, and the next run sends it. How far each stage got is in `runs/<run>/tracking/`.
A run is sent before the older ones, and an older one that MLflow does not take is left out: it stops nothing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mugv.errors import UserError
from mugv.platform import database
from mugv.platform.records import DamagedRecordError, RunRecord, all_runs, read_json, write_json
from mugv.redact import redact

logger = logging.getLogger(__name__)

EXPERIMENT = "mugv"
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
POLL_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 30.0
METRICS_A_CALL = 1000
PARAMETERS_A_CALL = 100
ARTIFACT_SUFFIXES = {".html", ".png"}
LARGEST_ARTIFACT = 20 << 20
_STATUS = {"ran": "FINISHED", "resumed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}
DATASETS = ("clips", "latents", "footage")


class Tracking:
    """An MLflow server or database; imports mlflow when it is first used."""

    def __init__(self, uri: str, experiment: str = "", artifacts: Path | None = None, state: Path | None = None) -> None:
        """`artifacts`: where a new experiment keeps its files; None: where the server says. `state`: folder whose own database it is."""
        self.uri = uri
        self._experiment = experiment
        self._artifacts = artifacts
        self._state = state

    @classmethod
    def of_state(cls, state: Path) -> Tracking:
        """MLFLOW_TRACKING_URI when it is set, otherwise a database in the state folder."""
        given = os.environ.get("MLFLOW_TRACKING_URI")
        if given:
            return cls(given, os.environ.get("MLFLOW_EXPERIMENT_ID", ""))
        state = state.absolute()
        return cls(database.sqlite_uri(state / DATABASE), artifacts=state / ARTIFACTS, state=state)

    @property
    def shown(self) -> str:
        """The address without a password, for people and records."""
        return redact(self.uri)

    def prepare(self, say: Callable[[str], None] = logger.warning) -> None:
        """Make or mend the state folder's own database; nothing for a server. Raises UserError for one of a newer MLflow."""
        # One short try instead of minutes inside the library: the forwarder has its own pauses.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        if self._state and self._state.is_dir() and database.ensure(self._state / DATABASE, self._state / ARTIFACTS, say):
            forget_sent(self._state)

    @cached_property
    def client(self) -> Any:
        self.prepare()
        import mlflow

        return mlflow.MlflowClient(self.uri, registry_uri=self.uri)

    @cached_property
    def experiment(self) -> str:
        """Id of the experiment, made when it is not there."""
        if self._experiment:
            return self._experiment
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found:
            return str(found.experiment_id)
        location = self._artifacts.as_uri() if self._artifacts else None
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))

    def start_run(self, name: str, started: float, tags: dict[str, str]) -> str:
        run = self.client.create_run(self.experiment, start_time=int(started * 1000), run_name=name, tags=tags)
        return str(run.info.run_id)


class TrackingAwayError(UserError):
    """MLflow did not answer, or refused; asking again may help."""


@contextmanager
def answering(tracking: Tracking) -> Iterator[None]:
    """One line, without a password, for a server or database that does not answer or refuses what the block asks."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ConnectionError) as error:
        reason = redact(str(error).splitlines()[0])[:200]
        raise TrackingAwayError(f"MLflow {tracking.shown} does not answer as asked ({reason}); check it and MLFLOW_TRACKING_URI") from None


class Forwarder:
    """Context manager: a daemon thread that keeps MLflow up to date with one run's records, and with what older runs left."""

    def __init__(self, tracking: Tracking, record: RunRecord, parent: str = "", only: str | None = None, older: Path | None = None) -> None:
        self.tracking = tracking
        self.record = record
        self.parent = parent
        self.only = only
        self.older = older
        """State folder whose earlier runs may have unsent records; None: leave them."""
        self.problem = ""
        """Why the last try failed, in one line; "" when all is sent."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="mlflow-forwarder", daemon=True)

    def __enter__(self) -> Forwarder:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self, patience: float = 60.0) -> bool:
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
            wait = POLL_SECONDS if self._try() else min(2 * wait, LONGEST_WAIT_SECONDS)
        self._try()

    def _try(self) -> bool:
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
        parent = self.parent or self.start_parent()
        refused = [
            error for stage in self.record.stages() if self.only in (None, stage["node"]) if (error := self._send_stage(parent, stage))
        ]
        run = self.record.read()
        if not self.only and run.get("ended") and not self._sent().get("complete"):
            self._end_parent(parent, run)
        if self.older:
            self._send_older(self.older)
            self.older = None
        if refused:
            raise refused[0]

    def _send_stage(self, parent: str, stage: dict[str, Any]) -> Exception | None:
        """What MLflow does not take of one stage must not keep back the others."""
        try:
            _StageSender(self.tracking, self.record, parent, stage).send()
        except Exception as error:
            if not _of_the_records(error):
                raise
            return error
        return None

    def _send_older(self, state: Path) -> None:
        """A run whose records MLflow does not take is told once and left; a server that is away ends the round."""
        for earlier in unsent_runs(state, self.record.run):
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
        run, sent = self.record.read(), self._sent()
        if "run_id" not in sent:
            tags = {"mugv.run": self.record.run, "mugv.recipe": run.get("recipe_digest", ""), **_git_tags(run)}
            sent["run_id"] = self.tracking.start_run(f"{run.get('name', 'run')} {self.record.run}", run.get("started", time.time()), tags)
            write_json(self._sent_file, sent)
            if (self.record.folder / "recipe.json").is_file():
                self.tracking.client.log_artifact(sent["run_id"], str(self.record.folder / "recipe.json"))
        return str(sent["run_id"])

    def _end_parent(self, parent: str, run: dict[str, Any]) -> None:
        status = "FINISHED" if run.get("status") == "finished" else "FAILED"
        for page in self.record.folder.glob("report.html"):
            self.tracking.client.log_artifact(parent, str(page))
        self.tracking.client.set_terminated(parent, status, int(run["ended"] * 1000))
        write_json(self._sent_file, {**self._sent(), "complete": True})

    @property
    def _sent_file(self) -> Path:
        return self.record.folder / "tracking" / "run.json"

    def _sent(self) -> dict[str, Any]:
        return _sent_so_far(self._sent_file)


class _StageSender:
    """Sends one stage's record; a small file remembers what was sent, so a new process goes on where the last one stopped."""

    def __init__(self, tracking: Tracking, record: RunRecord, parent: str, stage: dict[str, Any]) -> None:
        self.tracking = tracking
        self.record = record
        self.parent = parent
        self.stage = stage
        self.node: str = stage["node"]
        self.file = record.folder / "tracking" / "stages" / f"{self.node}.json"
        self.sent: dict[str, Any] = {"lines": {}, **_sent_so_far(self.file)}

    def send(self) -> None:
        if self.sent.get("complete"):
            return
        if self.stage["status"] in ("hit", "not needed"):
            self.tracking.client.set_tag(self.parent, f"mugv.stage.{self.node}", f"{self.stage['status']} {self.stage['key'][:12]}")
            self._remember(complete=True)
            return
        run_id = self._run()
        for path, name in self._curve_files():
            self._send_curve(run_id, path, name)
        if self.stage["status"] != "running":
            self._end(run_id)

    def _run(self) -> str:
        if "run_id" not in self.sent:
            tags = {"mlflow.parentRunId": self.parent, "mugv.run": self.record.run, "mugv.stage": self.stage["stage"]}
            tags["mugv.key"] = self.stage["key"]
            self._remember(run_id=self.tracking.start_run(self.node, self.stage["started"], tags))
        if not self.sent.get("described"):
            self._describe(self.sent["run_id"])
            self._remember(described=True)
        return str(self.sent["run_id"])

    def _describe(self, run_id: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        parameters = [Param(name, redact(str(value))[:6000]) for name, value in self.stage.get("params", {}).items()]
        for start in range(0, len(parameters), PARAMETERS_A_CALL):
            self.tracking.client.log_batch(run_id, params=parameters[start : start + PARAMETERS_A_CALL])
        inputs = []
        for name, ref in self.stage.get("inputs", {}).items():
            if name in DATASETS:
                source = json.dumps({"uri": ref["uri"], "digest": ref["digest"], "key": ref["key"]})
                # MLflow keeps at most 36 characters of a digest; the whole one is in the source.
                dataset = Dataset(name, ref["digest"][:36], "mugv", source)
                inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", self.stage["stage"])]))
        if inputs:
            self.tracking.client.log_inputs(run_id, datasets=inputs)

    def _curve_files(self) -> Iterator[tuple[Path, str]]:
        """Metric files of the stage and the prefix of their metrics: kept ones once the stage is done, else in its work folder."""
        kept = self.record.curves(self.node)
        folder = kept if kept.is_dir() else Path(self.stage.get("work", kept))
        for path in sorted(folder.rglob("metrics.jsonl")):
            parts = [p for p in path.relative_to(folder).parent.parts if p != "train"]
            yield path, "".join(f"{p}/" for p in parts)

    def _send_curve(self, run_id: str, path: Path, prefix: str) -> None:
        from mlflow.entities import Metric

        whole = path.read_bytes().split(b"\n")[:-1]
        metrics = []
        start = self.sent["lines"].get(prefix, 0)
        for line in whole[start:]:
            values = _numbers(line)
            if {"step", "time"} <= set(values):
                step, when = int(values.pop("step")), int(values.pop("time") * 1000)
                metrics += [Metric(prefix + k, v, when, step) for k, v in values.items()]
        for first in range(0, len(metrics), METRICS_A_CALL):
            self.tracking.client.log_batch(run_id, metrics=metrics[first : first + METRICS_A_CALL])
        if len(whole) > start:
            self._remember(lines={**self.sent["lines"], prefix: len(whole)})

    def _end(self, run_id: str) -> None:
        from mlflow.entities import Metric, RunTag

        ended = int(self.stage.get("ended", time.time()) * 1000)
        values = {**self.stage.get("metrics", {}), "stage_seconds": self.stage.get("stage_seconds", 0.0)}
        output = self.stage.get("output", {})
        tags = {"mugv.status": self.stage["status"], "mugv.output": output.get("uri", ""), "mugv.digest": output.get("digest", "")}
        tags["mugv.error"] = self.stage.get("error", "")[:5000]
        metrics = [Metric(name, float(value), ended, 0) for name, value in values.items() if _is_number(value)]
        self.tracking.client.log_batch(run_id, metrics=metrics, tags=[RunTag(k, v) for k, v in tags.items() if v])
        if output:
            self._send_artifacts(run_id, output)
        self.tracking.client.set_terminated(run_id, _STATUS.get(self.stage["status"], "FAILED"), ended)
        self._remember(complete=True)

    def _send_artifacts(self, run_id: str, output: dict[str, str]) -> None:
        """Pages and pictures of an output, for people who look at MLflow."""
        from mugv.store import open_store
        from mugv.store.base import Ref

        if self.stage["stage"] not in ("evaluate", "train_vae", "candidates", "curate"):
            return
        root = output["uri"].removesuffix(f"/{self.stage['stage']}/{output['key']}")
        folder = open_store(root, self.record.folder.parents[1] / "cache").fetch(Ref(**output))
        for path in sorted(folder.rglob("*")):
            if path.suffix in ARTIFACT_SUFFIXES and path.stat().st_size <= LARGEST_ARTIFACT:
                inside = path.relative_to(folder).parent.as_posix()
                self.tracking.client.log_artifact(run_id, str(path), None if inside == "." else inside)

    def _remember(self, **fields: Any) -> None:
        self.sent = {**self.sent, **fields}
        write_json(self.file, self.sent)


def unsent_runs(state: Path, but: str) -> list[RunRecord]:
    """Ended runs whose records MLflow has not got yet, oldest first. Stages that died without a word are marked killed."""
    waiting = [r for r in all_runs(state) if r.run != but and r.read().get("tracked") is False]
    for run in waiting:
        mark_dead(run)
    return waiting[::-1]


def mark_dead(run: RunRecord) -> None:
    """Give an end to the run and its stages whose processes are gone. Call with the state folder locked."""
    record = run.read()
    for stage in run.stages():
        if stage["status"] == "running":
            run.update_stage(stage["node"], status="killed", error="its process was killed", ended=stage.get("started", 0))
    if not record.get("ended"):
        run.update(status="killed", ended=record.get("started", time.time()))


def forget_sent(state: Path) -> None:
    """All runs of a state folder that its own database was told of are sent again: that database is a new one."""
    for run in all_runs(state):
        if run.read().get("tracking", "").startswith("sqlite:"):
            shutil.rmtree(run.folder / "tracking", ignore_errors=True)
            run.update(tracked=False)


def _sent_so_far(path: Path) -> dict[str, Any]:
    """What a sender remembers; when that is damaged, it begins anew."""
    try:
        return read_json(path)
    except DamagedRecordError:
        return {}


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


def _numbers(line: bytes) -> dict[str, float]:
    """The numbers of a line of a metrics file; {} for a line that a power cut damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return {name: float(value) for name, value in values.items() if _is_number(value)} if isinstance(values, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (math.isfinite(value) or math.isnan(value))


def _git_tags(run: dict[str, Any]) -> dict[str, str]:
    git = run.get("git", {})
    return {"mlflow.source.git.commit": git["commit"], "mugv.git.dirty": str(git["dirty"]).lower()} if git.get("commit") else {}
