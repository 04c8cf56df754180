"""`mugv lineage`, `mugv promote`, `mugv rollback`: the model registry from the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mugv.cli.common import JsonOption, StateOption, existing_state, open_console, print_json, state_folder
from mugv.errors import UserError

if TYPE_CHECKING:
    from mugv.platform.registry import Registry

NameOption = Annotated[str | None, typer.Option("--name", help="Name of the registered model (default: the only one, or mugv).")]


@contextmanager
def open_registry(state: Path | None) -> Iterator[Registry]:
    """The registry at MLFLOW_TRACKING_URI, or the one in the state folder; one line in the block for a server that does not answer."""
    import os

    from mugv.platform.registry import Registry
    from mugv.platform.tracking import Tracking, answering

    if not os.environ.get("MLFLOW_TRACKING_URI") and not (existing_state(state) / "mlflow.db").is_file():
        raise UserError(f"state folder {state_folder(state)}: no model is registered there; `mugv run` does it, or give another --state")
    tracking = Tracking.of_state(state_folder(state))
    with answering(tracking):
        yield Registry(tracking)


def model_name(registry: Registry, given: str | None) -> str:
    """The model that is meant: the one named, the registry's only one, or `mugv`. Raises UserError with the names that there are."""
    if given:
        return given
    names = registry.names()
    if "mugv" in names or not names:
        return "mugv"
    if len(names) > 1:
        raise UserError(f"there are models {', '.join(names)}; say which one, with --name NAME or models:/NAME@champion")
    return names[0]


def lineage(
    model: Annotated[
        str | None, typer.Argument(help="models:/NAME@champion or models:/NAME/3 (default: the champion of the only model, or of mugv).")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where a model came from: run, stages, checkpoints, data, commit, recipe."""
    from mugv.platform.lineage import lineage_tree

    with open_registry(state) as registry:
        version = registry.resolve(model or f"models:/{model_name(registry, None)}@champion")
        champion = registry.champion(version.name)
        found = registry.lineage(version)
    aliases = ["champion"] if champion and champion.version == version.version else []
    if as_json:
        print_json({"model": version.name, "version": version.version, "aliases": aliases, "lineage": found})
    else:
        open_console(styled=True).print(lineage_tree(version, found, aliases), crop=False, no_wrap=True, overflow="ignore")


def promote(
    version: Annotated[str, typer.Argument(help="Number of the version.")], name: NameOption = None, state: StateOption = None
) -> None:
    """Make a version the champion, whatever the gate said."""
    with open_registry(state) as registry:
        promoted = registry.promote(model_name(registry, name), version, "by hand")
    typer.echo(f"champion of {promoted.name} is now version {promoted.version}")


def rollback(name: NameOption = None, state: StateOption = None) -> None:
    """Give `champion` back to the version that had it before."""
    with open_registry(state) as registry:
        left, back = registry.rollback(model_name(registry, name))
    typer.echo(f"champion of {back.name} is now version {back.version} again (was {left.version})")
