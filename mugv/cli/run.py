"""`mugv run`: the whole pipeline on this machine, through KFP's local runner. What is in the store already is not made again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mugv.cli.common import (
    CaptionsOption,
    RecipeOption,
    SetOption,
    StateOption,
    VideosOption,
    check_scratch,
    check_threads,
    open_console,
    read_recipe,
    state_folder,
    talk,
)
from mugv.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mugv.platform.forwarder import Forwarder
    from mugv.platform.records import RunRecord
    from mugv.platform.tracking import Tracking
    from mugv.recipe import Recipe
    from mugv.stages.environment import RunEnvironment
    from mugv.stages.roots import Roots


STOPPED = 130


@dataclass(frozen=True)
class Goal:
    """What a run is for."""

    node: str
    """The node whose output it makes; "": the last of the graph."""
    pipeline: Callable[[Recipe, Roots], Any]
    """Recipe and what its cache keys start from to a KFP pipeline."""
    finish: Callable[[RunRecord, Console], None]
    """Says at the end what came out."""


def run(
    videos: VideosOption = None,
    captions: CaptionsOption = None,
    recipe: RecipeOption = None,
    changes: SetOption = None,
    state: StateOption = None,
) -> None:
    """Raw video to a registered generator, one command."""
    from mugv.platform.lock import state_lock
    from mugv.stages.preflight import check

    resolved = read_recipe(recipe, changes, videos, captions, here=True)
    if resolved.curation.score_only:
        raise UserError("curation.score_only keeps no clip to train on; score with `mugv curate`, or leave the key out")
    check(resolved, here=True)
    folder = state_folder(state)
    with state_lock(folder):
        raise typer.Exit(run_locked(resolved, folder, Goal("", _whole_pipeline, _finish)))


def run_locked(recipe: Recipe, state: Path, goal: Goal) -> int:
    """One run with the state folder held; returns the exit code. A signal at any moment ends it with one line and a record."""
    from mugv.platform.records import RunRecord, new_run_id
    from mugv.processes import stopped_by_signals

    record = RunRecord.of(state, new_run_id())
    with stopped_by_signals():
        try:
            return _run(recipe, state, goal, record)
        except UserError as error:
            _end_record(record, "failed", str(error))
            raise
        except KeyboardInterrupt:
            _end_record(record, "interrupted", _stopped(goal))
            typer.echo(f"error: {_stopped(goal)}", err=True)
            return STOPPED


def _end_record(record: RunRecord, status: str, error: str) -> None:
    if record.folder.is_dir() and not record.read().get("ended"):
        record.update(status=status, ended=time.time(), error=error)


def _stopped(goal: Goal) -> str:
    return f"stopped; what is finished is kept, and the next `mugv {'curate' if goal.node else 'run'}` goes on from there"


def _run(recipe: Recipe, state: Path, goal: Goal, record: RunRecord) -> int:
    from mugv.platform.forwarder import Forwarder, unsent_runs
    from mugv.platform.tracking import Tracking
    from mugv.precision import visible_gpus
    from mugv.precision import warning as precision_warning
    from mugv.stages.graph import node_keys
    from mugv.stages.roots import Roots
    from mugv.stages.run_report import write_report
    from mugv.store import explained

    check_threads()
    check_scratch()
    console = open_console(progress=True)
    roots = Roots.of(recipe, state)
    keys = node_keys(recipe, roots)
    tracking = Tracking.of_state(state)
    with explained(state):
        environment = _start_record(record, recipe, state, keys, roots, tracking, goal)
    emulated = precision_warning(recipe)
    if emulated:
        console.print(f"warning: {emulated}", markup=False)
    console.print(f"run {record.run}  recipe {recipe.name}  state {state}", markup=False)
    if recipe.parallel.world < (gpus := visible_gpus()):
        console.print(f"training uses {recipe.parallel.world} of {gpus} GPUs (parallel.world)", markup=False)
    environment = _with_tracking(environment, tracking, console)
    forwarder = Forwarder(tracking, record, older=lambda: unsent_runs(state, record.run))
    with explained(state), forwarder:
        if not goal.node:
            _drop_lost_version(environment, recipe, keys, console)
        code = _run_pipeline(recipe, record, environment, roots, goal, console)
        if not code:
            write_report(record)
        sent = forwarder.close()
        record.update(tracked=sent)
    _say_end(console, record, forwarder, tracking)
    if not code:
        goal.finish(record, open_console())
    return code


def _start_record(
    record: RunRecord, recipe: Recipe, state: Path, keys: dict[str, str], roots: Roots, tracking: Tracking, goal: Goal
) -> RunEnvironment:
    from dataclasses import replace

    from mugv.platform.records import write_json
    from mugv.stages.environment import RunEnvironment
    from mugv.stages.run_record import described

    environment = replace(
        RunEnvironment.from_env({**_store_setting(), "MUGV_STATE": str(state)}),
        run=record.run,
        tracking_uri=tracking.uri,
        forwarded=True,
        runner=str(os.getpid()),
        goal=goal.node,
    )
    record.update(**described(environment, recipe, roots.data, tracking.shown), keys=keys)
    write_json(record.folder / "recipe.json", recipe.model_dump(mode="json", by_alias=True))
    return environment


def _store_setting() -> dict[str, str]:
    return {"MUGV_STORE": os.environ["MUGV_STORE"]} if os.environ.get("MUGV_STORE") else {}


def _with_tracking(environment: RunEnvironment, tracking: Tracking, console: Console) -> RunEnvironment:
    """Open MLflow once, with its migrations, before anything runs; a server that is away is said and not waited for."""
    from dataclasses import replace

    from mugv.platform.forwarder import Forwarder
    from mugv.platform.tracking import reason, refused

    first = Forwarder(tracking, environment.record())
    tracking.prepare(lambda line: console.print(line, markup=False))
    try:
        return replace(environment, experiment=tracking.experiment, parent=first.start_parent())
    except UserError:
        raise
    except Exception as error:  # MLflow's clients raise their own, requests' and SQLAlchemy's errors
        if refusal := refused(tracking, error):
            raise refusal from None
        console.print(f"MLflow {tracking.shown} does not answer ({reason(error)}); metrics are kept and sent later", markup=False)
        return environment


def _drop_lost_version(environment: RunEnvironment, recipe: Recipe, keys: dict[str, str], console: Console) -> None:
    """When the registry no longer has the version that the store remembers, `register` must run again."""
    import json

    from mugv.errors import UserError
    from mugv.platform.registry import Registry
    from mugv.platform.tracking import Tracking, TrackingAwayError, TrackingRefusedError, answering

    store = environment.open_store()
    found = store.find(f"register/{keys['register']}")
    if found is None or not environment.experiment:
        return
    uri = json.loads((store.fetch(found) / "registered.json").read_text())["uri"]
    tracking = Tracking(environment.tracking_uri)
    try:
        with answering(tracking):
            Registry(tracking).resolve(uri)
    except TrackingAwayError as error:
        console.print(f"{error}; whether {uri} is still there is not known", markup=False)
    except TrackingRefusedError:
        raise
    except UserError:
        console.print(f"{uri} is not in the registry any more: it is registered again", markup=False)
        store.remove(f"register/{keys['register']}")


def _run_pipeline(recipe: Recipe, record: RunRecord, environment: RunEnvironment, roots: Roots, goal: Goal, console: Console) -> int:
    from mugv.cli.display import RunDisplay
    from mugv.platform.local import StageFailedError, run_pipeline
    from mugv.stages.graph import build_graph, needed_nodes

    outcome: dict[str, Any] = {"status": "failed"}
    code, problem = 0, ""
    try:
        nodes = build_graph(recipe)
        wanted = needed_nodes(nodes, set(), goal.node)
        display = nullcontext() if talk.quiet else RunDisplay(record, recipe, [node for node in nodes if node.name in wanted])
        with display:
            overhead = run_pipeline(goal.pipeline(recipe, roots), record, environment.to_env(), sys.stderr if talk.verbose else None)
        outcome = {"status": "finished", "kfp": {"tasks": overhead.tasks, "seconds": overhead.seconds, "imports": overhead.import_seconds}}
    except StageFailedError as error:
        code, problem = (2 if error.by_user else 1), str(error)
    except KeyboardInterrupt:
        code, problem = STOPPED, _stopped(goal)
        outcome["status"] = "interrupted"
    finally:
        record.update(**outcome, ended=time.time(), error=problem)
    _print_summary(record, console, problem)
    return code


def _print_summary(record: RunRecord, console: Console, problem: str) -> None:
    from mugv.cli.summary import print_stages

    print_stages(console, record)
    if problem:
        typer.echo(f"error: {' '.join(problem.split())}", err=True)
        return
    kfp = record.read()["kfp"]
    console.print(
        f"KFP overhead {kfp['seconds']:.2f} s a task over {kfp['tasks']} tasks, plus {kfp['imports']:.2f} s of process start and imports"
    )


def _whole_pipeline(recipe: Recipe, roots: Roots) -> Any:
    from pipelines.train import build_pipeline

    return build_pipeline(recipe, roots)


def _finish(record: RunRecord, console: Console) -> None:
    from mugv.cli.summary import print_result

    print_result(console, record)


def _say_end(console: Console, record: RunRecord, forwarder: Forwarder, tracking: Tracking) -> None:
    if forwarder.problem:
        kept = f"it is kept in {record.folder} and sent by the next run"
        console.print(f"MLflow {tracking.shown} has not got everything ({forwarder.problem}); {kept}", markup=False)
