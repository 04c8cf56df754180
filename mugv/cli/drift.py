"""`mugv drift` and `mugv confirm`: new data against the champion's, and the word that lets a retraining go on with them."""

from __future__ import annotations

import getpass
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mugv.cli.common import JsonOption, RecipeOption, SetOption, StateOption, existing_state, open_console, print_json, state_folder
from mugv.cli.models import NameOption, model_name, open_registry
from mugv.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mugv.curation.drift.compare import Comparison
    from mugv.recipe.retrain import Drift

COLUMNS_SHOWN = 12
_WHAT = "A run, latest, or the folder of a clip set"


def drift(
    new: Annotated[str, typer.Argument(help=f"{_WHAT}.")] = "latest",
    against: Annotated[
        str, typer.Option(help=f"champion, models:/NAME/VERSION, or as the first: {_WHAT[0].lower()}{_WHAT[1:]}.")
    ] = "champion",
    recipe: RecipeOption = None,
    changes: SetOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for comparison.json and report.html (default: none).")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the clips of a run with those that the champion was trained on: what drifted, and whether retraining would go on.

    The limits are those of `retrain.drift` in the run's own recipe, or in --recipe.
    """
    from mugv.curation.drift.compare import compare
    from mugv.curation.drift.verdict import judge

    with tempfile.TemporaryDirectory() as scratch:
        path, name = _clips(new, state, Path(scratch) / "new")
        other, whose = _clips(against, state, Path(scratch) / "old", champion=True)
        settings = _settings(new, recipe, changes, state)
        found = compare(other, path, whose, settings)
    verdict = judge(found, settings)
    document: dict[str, Any] = {"new": name, "against": whose, "decision": "go on" if verdict.go_on else "held", "line": verdict.line}
    document["comparison"] = found.to_json()
    if output:
        _write(output, document, found, verdict.line)
    if as_json:
        print_json(document)
    else:
        _print(open_console(), found, verdict.line, output)


def confirm(
    digest: Annotated[str | None, typer.Argument(help="What the retraining named (default: list what waits).")] = None,
    name: NameOption = None,
    state: StateOption = None,
) -> None:
    """Let the next retraining go on with data that have drifted: exactly those of one comparison, against the present champion."""
    from mugv.platform import champion_data

    with open_registry(state) as registry:
        version = registry.resolve(f"models:/{model_name(registry, name)}@champion")
        if digest is None:
            for waiting, line in champion_data.held(version).items():
                typer.echo(f"{waiting}  {line}")
            return
        line = champion_data.confirm(registry, version, digest, getpass.getuser())
    typer.echo(f"confirmed for the next retraining of {version.name}: {line.partition('; nothing is trained')[0]}")


def _clips(what: str, state: Path | None, folder: Path, champion: bool = False) -> tuple[Path, str]:
    """manifest.parquet of what is named, and whose it is. Raises UserError."""
    place = Path(what)
    if (place / "manifest.parquet").is_file():
        return place / "manifest.parquet", str(place)
    if champion and (what == "champion" or what.startswith("models:/")):
        return _champion_clips(what, state, folder)
    return _run_clips(what, state, folder)


def _champion_clips(what: str, state: Path | None, folder: Path) -> tuple[Path, str]:
    from mugv.platform.champion_data import clip_table
    from mugv.stages.environment import RunEnvironment

    with open_registry(state) as registry:
        version = registry.resolve(what if what != "champion" else f"models:/{model_name(registry, None)}@champion")
    store = RunEnvironment.from_env({**os.environ, "MUGV_STATE": str(state_folder(state))}).open_store()
    found = clip_table(store, version.keys.get("curate", ""), folder)
    name = f"{version.name} version {version.version}{' (champion)' if what == 'champion' else ''}"
    if found is None:
        raise UserError(f"--against {what}: the clips of {name} are gone from the store {store.uri}; name a run or a folder that has them")
    return found, name


def _run_clips(what: str, state: Path | None, folder: Path) -> tuple[Path, str]:
    from mugv.platform.champion_data import clip_table
    from mugv.platform.records import find_run
    from mugv.store import open_store

    home = existing_state(state)
    record = find_run(home, what)
    key = record.stage("curate").get("key", "")
    found = clip_table(open_store(record.read().get("store") or str(home / "store"), home / "cache"), key, folder)
    if found is None:
        raise UserError(f"run {record.run}: it has no clips in the store (`mugv show {record.run}` has its outputs)")
    return found, f"run {record.run}"


def _settings(new: str, recipe: Path | None, changes: list[str] | None, state: Path | None) -> Drift:
    """Of the recipe that is named, else of the run's, else the defaults."""
    from mugv.cli.common import read_recipe
    from mugv.platform.records import find_run
    from mugv.recipe import load_recipe

    if recipe is None and not (Path(new) / "manifest.parquet").is_file():
        own = find_run(existing_state(state), new).folder / "recipe.json"
        if own.is_file():
            return load_recipe(own, changes or ()).retrain.drift
    return read_recipe(recipe, changes).retrain.drift


def _write(folder: Path, document: dict[str, Any], found: Comparison, line: str) -> None:
    from mugv.curation.drift.page import render

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "report.html").write_text(render(found, line))


def _print(console: Console, found: Comparison, line: str, output: Path | None) -> None:
    from rich.table import Table

    from mugv.figures import number

    table = Table("column", "PSI", "by chance up to", "KS", "p", "limit", "what changed", box=None, pad_edge=False)
    for column in [c for c in found.columns if c.distance][:COLUMNS_SHOWN]:
        assert column.distance
        d = column.distance
        cells = (f"{d.psi:.3f}", f"{d.psi_bound:.3f}", f"{d.ks:.3f}", number(d.p), f"{column.limit:g}", column.detail)
        table.add_row(f"{column.name}{' !' if column.drifted else ''}", *cells)
    console.print(f"{found.rows[0]:,} -> {found.rows[1]:,} clips; {found.sources.line}", markup=False)
    console.print(table)
    for note in [*(f"{c.name}: {c.note}" for c in found.columns if c.note.startswith("not compared")), *found.notes]:
        console.print(note, markup=False)
    console.print(line, markup=False, soft_wrap=True)
    if output:
        console.print(f"report {output / 'report.html'}", markup=False, soft_wrap=True)
