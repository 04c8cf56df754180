"""`mugv run`: the whole pipeline on this machine, through KFP's local runner. What is in the store already is not made again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mugv.cli.common import CaptionsOption, RecipeOption, SetOption, StateOption, VideosOption, open_console, read_recipe, state_folder

if TYPE_CHECKING:
    from rich.console import Console

    from mugv.platform.records import RunRecord
    from mugv.platform.tracking import Forwarder, Tracking
    from mugv.recipe import Recipe
    from mugv.stages.execute import RunEnvironment


def run(
    videos: VideosOption = None,
    captions: CaptionsOption = None,
    recipe: RecipeOption = None,
    changes: SetOption = None,
    state: StateOption = None,
) -> None:
    """Raw video to a registered generator, one command."""
    from mugv.platform.lock import state_lock

    resolved = read_recipe(recipe, changes, videos, captions)
    folder = state_folder(state)
    with state_lock(folder):
        raise typer.Exit(run_locked(resolved, folder))


def run_locked(recipe: Recipe, state: Path) -> int:
    """One run with the state folder held; returns the exit code."""
    from mugv.platform.records import RunRecord, new_run_id
    from mugv.platform.tracking import Forwarder, Tracking
    from mugv.stages.execute import resolve_data_digest
    from mugv.stages.graph import build_graph, node_keys
    from mugv.store import explained

    console = open_console()
    data_digest = resolve_data_digest(recipe)
    keys = node_keys(recipe, data_digest)
    record = RunRecord.of(state, new_run_id())
    tracking = Tracking.of_state(state)
    with explained(state):
        environment = _start_record(record, recipe, state, keys, data_digest, tracking)
    console.print(f"run {record.run}  recipe {recipe.name}  state {state}", markup=False)
    environment = _with_tracking(environment, tracking, console)
    forwarder = Forwarder(tracking, record, older=state)
    with explained(state), forwarder:
        _drop_lost_version(environment, recipe, keys, console)
        code = _run_pipeline(recipe, record, environment, keys, len(build_graph(recipe)), console)
        sent = forwarder.close()
        record.update(tracked=sent)
    _say_end(console, record, forwarder, tracking)
    return code


def _start_record(
    record: RunRecord, recipe: Recipe, state: Path, keys: dict[str, str], data_digest: str, tracking: Tracking
) -> RunEnvironment:
    from dataclasses import replace

    from mugv.platform.lineage import git_state
    from mugv.platform.records import write_json
    from mugv.recipe import digest
    from mugv.stages.execute import RunEnvironment

    environment = replace(
        RunEnvironment.from_env({**_store_setting(), "MUGV_STATE": str(state)}),
        run=record.run,
        tracking_uri=tracking.uri,
        data_digest=data_digest,
        forwarded=True,
    )
    record.update(
        run=record.run,
        name=recipe.name,
        started=time.time(),
        status="running",
        recipe_digest=digest(recipe),
        data_digest=data_digest,
        videos=recipe.data.videos,
        keys=keys,
        git=git_state(),
        store=environment.store,
        tracking=tracking.uri,
        tracked=False,
    )
    write_json(record.folder / "recipe.json", recipe.model_dump(mode="json", by_alias=True))
    return environment


def _store_setting() -> dict[str, str]:
    import os

    return {"MUGV_STORE": os.environ["MUGV_STORE"]} if os.environ.get("MUGV_STORE") else {}


def _with_tracking(environment: RunEnvironment, tracking: Tracking, console: Console) -> RunEnvironment:
    """Open MLflow once, with its migrations, before anything runs; a server that is away is said and not waited for."""
    from dataclasses import replace

    from mugv.platform.tracking import Forwarder

    first = Forwarder(tracking, environment.record())
    try:
        return replace(environment, experiment=tracking.experiment, parent=first.start_parent())
    except Exception as error:  # MLflow's clients raise their own, requests' and SQLAlchemy's errors
        reason = str(error).splitlines()[0][:160]
        console.print(f"MLflow {tracking.uri} does not answer ({reason}); metrics are kept and sent later", markup=False)
        return environment


def _drop_lost_version(environment: RunEnvironment, recipe: Recipe, keys: dict[str, str], console: Console) -> None:
    """When the registry no longer has the version that the store remembers, `register` must run again."""
    import json

    from mugv.errors import UserError
    from mugv.platform.registry import Registry

    store = environment.open_store()
    found = store.find(f"register/{keys['register']}")
    if found is None or not environment.experiment:
        return
    uri = json.loads((store.fetch(found) / "registered.json").read_text())["uri"]
    try:
        Registry(environment.tracking_uri).resolve(uri)
    except UserError:
        console.print(f"{uri} is not in the registry any more: it is registered again", markup=False)
        store.remove(f"register/{keys['register']}")


def _run_pipeline(
    recipe: Recipe, record: RunRecord, environment: RunEnvironment, keys: dict[str, str], stages: int, console: Console
) -> int:
    from mugv.cli.display import RunDisplay
    from mugv.platform.local import StageFailedError, run_pipeline
    from pipelines.train import build_pipeline

    outcome: dict[str, Any] = {"status": "failed"}
    code, problem = 0, ""
    try:
        with RunDisplay(record, stages):
            overhead = run_pipeline(build_pipeline(recipe, keys), record, environment.to_env())
        outcome = {"status": "finished", "kfp": {"tasks": overhead.tasks, "seconds": overhead.seconds, "imports": overhead.import_seconds}}
    except StageFailedError as error:
        code, problem = (2 if error.by_user else 1), str(error)
    except KeyboardInterrupt:
        code, problem = 130, "stopped; what is finished is kept, and the next `mugv run` goes on from the last checkpoint"
        outcome["status"] = "interrupted"
    finally:
        record.update(**outcome, ended=time.time(), error=problem)
    _print_summary(record, console, problem)
    return code


def _print_summary(record: RunRecord, console: Console, problem: str) -> None:
    from mugv.cli.summary import print_result, print_stages, write_report

    print_stages(console, record)
    if problem:
        typer.echo(f"error: {' '.join(problem.split())}", err=True)
        return
    write_report(record)
    print_result(console, record)
    kfp = record.read()["kfp"]
    console.print(
        f"KFP overhead {kfp['seconds']:.2f} s a task over {kfp['tasks']} tasks, plus {kfp['imports']:.2f} s of process start and imports"
    )


def _say_end(console: Console, record: RunRecord, forwarder: Forwarder, tracking: Tracking) -> None:
    if forwarder.problem:
        text = f"MLflow {tracking.uri} has not got everything ({forwarder.problem}); it is kept in {record.folder} and sent by the next run"
        console.print(text, markup=False)
