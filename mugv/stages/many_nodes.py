"""A training stage on many nodes of a cluster: this task starts a TrainJob, follows it, and takes its output over.

    work/trainjob.json    there is a job that writes this folder; its manifest
    work/out/             what the job makes; it becomes the stage's output when the job is complete
All paths lie on the state volume, which every pod mounts at one place.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mugv.durable import replace_text
from mugv.errors import MissingFeatureError, UserError
from mugv.platform.claim import KEEP_NAME
from mugv.platform.launch import LaunchSpec
from mugv.platform.trainjob import Ending, JobId, owner_of, train_job
from mugv.stages.base import StageContext
from mugv.stages.placement import Layout, many_nodes, training_pool
from mugv.stages.progress import ProgressWriter

OUT = "out"
HANDED_ON = ("MUGV_STATE", "MUGV_STORE", "MUGV_S3_ENDPOINT", "MUGV_RUN")
"""Settings of this task that its job must share; keys and tokens come by the runtime's secrets."""


def run_job(ctx: StageContext, stage: str, layout: Layout, specification: Path, fresh: list[Path]) -> Ending | None:
    """How the job failed at last; None when it is complete, and its output lies in `ctx.out`. `fresh`: files to remove before a job is
    made. Raises MissingFeatureError where there is no cluster, UserError for what only a person can mend."""
    from mugv.platform.trainjob_api import Api, on_cluster
    from mugv.platform.trainjob_run import JobRun

    if not on_cluster() or not isinstance(ctx.progress, ProgressWriter):
        raise MissingFeatureError(many_nodes(ctx.recipe, layout.nodes))
    _check_shared(ctx)
    resources, pool = ctx.recipe.resources, training_pool(stage)
    settings = getattr(resources, pool).job
    api = Api()
    api.check(settings, f"resources.{pool}.job")
    record, owner = ctx.progress.record, owner_of(os.environ)
    job = JobId(record.run, ctx.node, str(record.stage(ctx.node).get("key", "")))
    manifest = train_job(_spec(ctx, pool, layout, specification), job, settings, api.namespace, owner)

    def before(made: dict[str, Any]) -> None:
        for path in fresh:
            path.unlink(missing_ok=True)
        shutil.rmtree(ctx.work / OUT, ignore_errors=True)
        (ctx.work / OUT).mkdir()
        replace_text(ctx.work / KEEP_NAME, json.dumps(made, indent=1))

    ending = JobRun(
        api,
        _of_an_earlier_run(ctx.work, api) or manifest,
        owner,
        resources.start_deadline,
        resources.job_retries,
        position=lambda: int(record.progress(ctx.node).get("done", 0)),
        progress=lambda: _progress(record.progress(ctx.node), ctx.node),
        before=before,
        grace=resources.grace_seconds,
        poll=float(os.environ.get("MUGV_POLL_SECONDS", "5")),
    ).run()
    for path in () if ending else (ctx.work / OUT).iterdir():
        path.rename(ctx.out / path.name)
    return ending


def _check_shared(ctx: StageContext) -> None:
    """UserError for an input that the other nodes cannot see."""
    state = Path(os.environ.get("MUGV_STATE", ".mugv")).absolute()
    for name, path in ctx.inputs.items():
        if not path.absolute().is_relative_to(state):
            raise UserError(
                f"{ctx.node}: its input {name} lies at {path}, outside of the state volume {state} that all nodes share; "
                "MUGV_STORE must be an s3:// address or a folder of that volume"
            )


def _progress(found: dict[str, Any], node: str) -> str:
    return f"{node} {found['done']}/{found['total']}" if found else ""


def _spec(ctx: StageContext, pool: str, layout: Layout, specification: Path) -> LaunchSpec:
    resources = ctx.recipe.resources
    environment = {name: os.environ[name] for name in HANDED_ON if os.environ.get(name)}
    return LaunchSpec(
        "mugv.stages.worker",
        (str(specification),),
        layout.nodes,
        layout.processes_per_node,
        resources.image_train,
        getattr(resources, pool),
        environment,
        resources.grace_seconds,
    )


def _of_an_earlier_run(work: Path, api: Any) -> dict[str, Any] | None:
    """The job that writes this folder, where it still lives: another run with the same key may have left it without its task."""
    try:
        made: dict[str, Any] = json.loads((work / KEEP_NAME).read_bytes())
        name = str(made["metadata"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made if api.get(name) is not None else None
