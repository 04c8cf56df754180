"""What a stage's process is told about its run, in environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mugv.platform.records import RunRecord
from mugv.processes import RUNNER
from mugv.store import Store, open_store


@dataclass(frozen=True)
class RunEnvironment:
    """Where a run keeps its things. Travels to the stages' processes in environment variables."""

    state: Path
    store: str
    run: str = "by-hand"
    tracking_uri: str = ""
    experiment: str = ""
    parent: str = ""
    """MLflow id of the run that the stages' runs are nested in."""
    forwarded: bool = False
    """True when the process that started the run sends the stages' records to MLflow; False: each stage sends its own."""
    runner: str = ""
    """Id of the process that the stages' processes end with; "": none, as on a cluster."""
    goal: str = ""
    """Node that the run is for; "": the last of the graph. A run for the data alone must not find its clip set unneeded."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> RunEnvironment:
        state = Path(env.get("MUGV_STATE", ".mugv")).absolute()
        return cls(
            state=state,
            store=env.get("MUGV_STORE") or str(state / "store"),
            run=env.get("MUGV_RUN", "by-hand"),
            tracking_uri=env.get("MLFLOW_TRACKING_URI", ""),
            experiment=env.get("MLFLOW_EXPERIMENT_ID", ""),
            parent=env.get("MLFLOW_RUN_ID", ""),
            forwarded=env.get("MUGV_FORWARDED") == "1",
            runner=env.get(RUNNER, ""),
            goal=env.get("MUGV_GOAL", ""),
        )

    def to_env(self) -> dict[str, str]:
        values = {
            "MUGV_STATE": str(self.state),
            "MUGV_STORE": self.store,
            "MUGV_RUN": self.run,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_EXPERIMENT_ID": self.experiment,
            "MLFLOW_RUN_ID": self.parent,
            "MUGV_FORWARDED": "1" if self.forwarded else "",
            RUNNER: self.runner,
            "MUGV_GOAL": self.goal,
        }
        return {name: value for name, value in values.items() if value}

    def open_store(self) -> Store:
        return open_store(self.store, self.state / "cache")

    def record(self) -> RunRecord:
        return RunRecord.of(self.state, self.run)
