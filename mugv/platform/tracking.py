"""MLflow, the server or the state folder's own database: where it is, whether it answers, and what its refusals mean to a user."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mugv.errors import ServiceAwayError, UserError
from mugv.platform import database
from mugv.platform.records import all_runs
from mugv.redact import redact

logger = logging.getLogger(__name__)

EXPERIMENT = "mugv"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One run a pipeline, a nested one a stage: the first has the results, the others curves, parameters, data sets,"
    " system metrics and pages.",
}
"""The first makes MLflow's pages those of training, not of chat."""
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
REFUSALS = {
    "UNAUTHENTICATED": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user that it knows",
    "PERMISSION_DENIED": "ask its administrator for the right, or name this address in the server's --allowed-hosts",
}
"""MLflow's code for what no second try mends -> what does."""
AWAY = "{where} does not answer as asked ({reason}); check it and MLFLOW_TRACKING_URI"


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
        return str(self.client.create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS))

    def start_run(self, name: str, started: float, tags: dict[str, str]) -> str:
        run = self.client.create_run(self.experiment, start_time=int(started * 1000), run_name=name, tags=tags)
        return str(run.info.run_id)


class TrackingAwayError(ServiceAwayError):
    """MLflow did not answer; asking again may help."""


class TrackingRefusedError(UserError):
    """MLflow does not know this user, or does not let it do what was asked; asking again does not help."""


@contextmanager
def answering(tracking: Tracking, away: str = AWAY) -> Iterator[None]:
    """One line, without a password, for a server or database that does not answer or refuses what the block asks.

    `away`: the line for the first case, with {where} and {reason} in it. Raises TrackingAwayError and TrackingRefusedError.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ConnectionError) as error:
        raise refused(tracking, error) or TrackingAwayError(away.format(where=f"MLflow {tracking.shown}", reason=reason(error))) from None


def refused(tracking: Tracking, error: Exception) -> TrackingRefusedError | None:
    """The line for an error that says that MLflow does not take this user; None for any other."""
    mend = REFUSALS.get(getattr(error, "error_code", ""))
    return TrackingRefusedError(f"MLflow {tracking.shown} refuses this user ({reason(error)}); {mend}") if mend else None


def reason(error: Exception) -> str:
    """An error of MLflow's client in a few words: what the server said, where it said something."""
    said = str(error).partition("Response body: ")[2].strip("'\" ")
    lines = (said or str(error)).splitlines() or [type(error).__name__]
    return redact(lines[0])[:200]


def forget_sent(state: Path) -> None:
    """All runs of a state folder that its own database was told of are sent again: that database is a new one."""
    for run in all_runs(state):
        if run.read().get("tracking", "").startswith("sqlite:"):
            shutil.rmtree(run.folder / "tracking", ignore_errors=True)
            run.update(tracked=False)
