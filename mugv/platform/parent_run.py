"""The one MLflow run of a pipeline run: whichever of its tasks asks first makes it, all others find it, however many pods there are.

runs/<run>/tracking/run.json remembers it: the file is made once, so of two first tasks one wins and the other takes its own run back.
Where that file is lost, the run is found by its tags; under Kubeflow's own MLflow plugin it is the plugin's run of the pipeline.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mugv.platform.lineage import code_tags
from mugv.platform.records import RunRecord, write_json, write_once
from mugv.platform.stage_sender import sent_so_far

if TYPE_CHECKING:
    from mugv.platform.tracking import Tracking

RUN, KIND, PIPELINE = "mugv.run", "mugv.kind", "pipeline"


def sent_file(record: RunRecord) -> Path:
    """What was sent of the run as a whole."""
    return record.folder / "tracking" / "run.json"


def parent_run(tracking: Tracking, record: RunRecord, given: str = "") -> str:
    """Id of the run that the stages' runs are nested in; made at the first success. `given`: MLFLOW_RUN_ID of a task.

    Raises what MLflow's client raises.
    """
    known = str(sent_so_far(sent_file(record)).get("run_id", ""))
    if known:
        return known
    found = _top(tracking, given) if given else _by_tags(tracking, record.run)
    run_id = found or tracking.start_run(_name(record), record.read().get("started", time.time()), _tags(record))
    if not write_once(sent_file(record), {"run_id": run_id}):
        return _yield_to_first(tracking, record, run_id, made=not found)
    _describe(tracking, record, run_id)
    return run_id


def _yield_to_first(tracking: Tracking, record: RunRecord, run_id: str, made: bool) -> str:
    """Another task was first; a run that was made in vain is deleted. A damaged memory is written anew."""
    first = str(sent_so_far(sent_file(record)).get("run_id", ""))
    if not first:
        write_json(sent_file(record), {"run_id": run_id})
        return run_id
    if made and first != run_id:
        tracking.client.delete_run(run_id)
    return first


def _top(tracking: Tracking, given: str) -> str:
    """The run of the pipeline when `given` is that of one of its tasks."""
    return str(tracking.client.get_run(given).data.tags.get("mlflow.parentRunId") or given)


def _by_tags(tracking: Tracking, run: str) -> str:
    """The oldest pipeline's run with this id; "" when there is none."""
    wanted = f"tags.`{RUN}` = '{run}' and tags.`{KIND}` = '{PIPELINE}'"
    found = tracking.client.search_runs([tracking.experiment], filter_string=wanted)
    return min(((r.info.start_time, r.info.run_id) for r in found), default=(0, ""))[1]


def _name(record: RunRecord) -> str:
    return f"{record.read().get('name', 'run')} {record.run}"


def _tags(record: RunRecord) -> dict[str, str]:
    run = record.read()
    tags = {
        RUN: record.run,
        KIND: PIPELINE,
        "mlflow.source.name": "mugv",
        "mlflow.source.type": "JOB",
        "mugv.recipe": run.get("recipe_digest", ""),
        **code_tags(run),
    }
    return {name: value for name, value in tags.items() if value}


def _describe(tracking: Tracking, record: RunRecord, run_id: str) -> None:
    """Tags also for a run that Kubeflow made, and the recipe."""
    for name, value in _tags(record).items():
        tracking.client.set_tag(run_id, name, value)
    if (record.folder / "recipe.json").is_file():
        tracking.client.log_artifact(run_id, str(record.folder / "recipe.json"))
