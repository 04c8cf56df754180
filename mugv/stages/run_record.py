"""The record of a whole run: what it begins with, here and on a cluster, and how a cluster's run ends.

On a cluster no process sees the whole run: whichever task comes first writes `run.json` on the state volume, the last one
(components/finish) ends it, whatever happened in between, and brings MLflow up to date.
"""

from __future__ import annotations

import time
from typing import Any

from mugv.platform.datasets import dvc_of
from mugv.platform.lineage import git_state, image_digest
from mugv.platform.records import RunRecord, write_json, write_once
from mugv.recipe import Recipe, digest
from mugv.redact import redact
from mugv.stages.environment import RunEnvironment

GOOD = frozenset({"SUCCEEDED", "COMPLETE", "CACHED", "SKIPPED"})
"""Words of KFP's releases for a pipeline that went well."""
STOPPED = frozenset({"CANCELLED", "CANCELED", "CANCELING"})
PATIENCE_SECONDS = 90.0
"""The last task waits that long for MLflow; after it the next run sends what is left."""
PAUSE_SECONDS = 5.0


def described(environment: RunEnvironment, recipe: Recipe, data_digest: str, tracking: str) -> dict[str, Any]:
    """What `run.json` begins with. `tracking`: MLflow's address for people."""
    return {
        "run": environment.run,
        "name": recipe.name,
        "started": time.time(),
        "status": "running",
        "recipe_digest": digest(recipe),
        "data_digest": data_digest,
        "videos": redact(recipe.data.videos) if recipe.data.videos else None,
        "dvc": dvc_of(recipe.data.videos),
        "git": git_state(),
        "image": image_digest(),
        "store": redact(environment.store),
        "tracking": tracking,
        "shards": recipe.data.shards,
        "tracked": False,
    }


def begin(environment: RunEnvironment, recipe: Recipe, data_digest: str) -> None:
    """What a task of a cluster does first: the run's record, unless another task was first. One that had ended goes on."""
    record = environment.record()
    if not (record.folder / "run.json").exists():
        write_json(record.folder / "recipe.json", recipe.model_dump(mode="json", by_alias=True))
        write_once(record.folder / "run.json", described(environment, recipe, data_digest, redact(environment.tracking_uri)))
    if record.read().get("ended"):
        record.reopen()


def finish(recipe: Recipe, environment: RunEnvironment, state: str, message: str) -> RunRecord:
    """End the record of the run that this process belongs to and send it. `state`, `message`: what KFP says of its tasks."""
    record = environment.record()
    begin(environment, recipe, "")
    end(record, state, message)
    if environment.tracking_uri:
        record.update(tracked=_send(environment, record))
    return record


def end(record: RunRecord, state: str, message: str) -> None:
    """The status of the run and of stages that ended without a word; nobody works on the run any more."""
    stages = record.stages()
    now = time.time()
    for stage in stages:
        if stage["status"] == "running":
            record.update_stage(stage["node"], status="killed", error="its process was killed", ended=now)
    status = outcome(state, [stage["status"] for stage in stages])
    problem = next((stage.get("error", "") for stage in stages if stage["status"] == "failed"), "") or message
    record.update(status=status, ended=now, error=redact(problem)[:2000] if status != "finished" else "")


def outcome(state: str, stages: list[str]) -> str:
    """finished, failed or killed: KFP's word where it has one for it, else what the stages say that it stopped.

    A pipeline that people end is FAILED to some releases: its stages were interrupted and none of them failed.
    """
    if state.upper() in GOOD:
        return "finished"
    if state.upper() in STOPPED:
        return "killed"
    if "failed" not in stages and "interrupted" in stages:
        return "killed"
    return "failed"


def _send(environment: RunEnvironment, record: RunRecord) -> bool:
    """Whether MLflow has everything. One that is away costs nothing: what is left lies on the state volume."""
    from mugv.platform.forwarder import Forwarder, left_runs
    from mugv.platform.tracking import Tracking

    tracking = Tracking(environment.tracking_uri, environment.experiment)
    forwarder = Forwarder(tracking, record, environment.parent, older=lambda: left_runs(environment.state, record.run))
    until = time.monotonic() + PATIENCE_SECONDS
    while not forwarder.attempt():
        if time.monotonic() > until:
            print(f"MLflow {tracking.shown} has not got everything ({forwarder.problem}); the next run's last task sends it", flush=True)
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def summary(record: RunRecord) -> dict[str, float]:
    """Numbers of the whole run: its seconds, its stages by status, and what was measured of the model."""
    run, stages = record.read(), record.stages()
    numbers = {"seconds": round(run.get("ended", 0.0) - run.get("started", 0.0), 1), "stages": float(len(stages))}
    for status in ("hit", "failed", "killed", "interrupted"):
        if count := sum(stage["status"] == status for stage in stages):
            numbers[f"stages_{status}"] = float(count)
    for node in ("evaluate", "register"):
        numbers |= next((stage.get("metrics", {}) for stage in stages if stage["node"] == node), {})
    return numbers
