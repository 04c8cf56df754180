"""The last task of a cluster's run, whatever happened in it: ends the run's record, brings MLflow up to date, shows the run's page.

Not a node of the graph: an exit handler around all of them (components/finish).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mugv.errors import UserError
from mugv.platform.records import ERROR_MARK, RunRecord, write_json
from mugv.platform.run_summary import numbers
from mugv.recipe import Recipe, recipe_from_json
from mugv.redact import redact
from mugv.stages.environment import RunEnvironment
from mugv.stages.run_record import begin
from mugv.stages.run_report import write_report

GOOD = frozenset({"SUCCEEDED", "COMPLETE", "CACHED", "SKIPPED"})
"""Words of KFP's releases for a pipeline that went well."""
STOPPED = frozenset({"CANCELLED", "CANCELED", "CANCELING"})
PATIENCE_SECONDS = 90.0
"""The last task waits that long for MLflow; after it the next run sends what is left."""
PAUSE_SECONDS = 5.0


def component_main(recipe_json: str, state: str, message: str, pages: dict[str, Any]) -> None:
    """Body of the KFP component; `pages`: its artifacts `metrics` and `report`."""
    try:
        record = finish(recipe_from_json(recipe_json), RunEnvironment.from_env(), state, message)
    except UserError as error:
        print(f"{ERROR_MARK}{error}", flush=True)
        raise SystemExit(2) from None
    run = record.read()
    print(f"run {record.run}: {run['status']}{': ' if run['error'] else ''}{run['error']}", flush=True)
    found = numbers(record)
    pages["metrics"].metadata.update(found)
    write_json(Path(pages["metrics"].path), found, lasting=False)
    if (page := record.folder / "report.html").is_file():
        path = Path(pages["report"].path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(page.read_bytes())


def finish(recipe: Recipe, environment: RunEnvironment, state: str, message: str) -> RunRecord:
    """End the record of the run that this process belongs to and send it. `state`, `message`: what KFP says of its tasks."""
    record = environment.record()
    begin(environment, recipe, "")
    end(record, state, message)
    _write_page(record)
    if environment.tracking_uri:
        record.update(tracked=_send(environment, record))
    return record


def _write_page(record: RunRecord) -> None:
    """A run that ended badly, and a store that is away, have no page; the run's end is told all the same."""
    try:
        write_report(record)
    except (UserError, OSError, KeyError, ValueError) as error:
        print(f"the run's page is left out ({type(error).__name__}: {redact(str(error))})", flush=True)


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
