"""`mugv lineage`, `mugv promote`, `mugv rollback`: the model registry from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mugv.cli.common import StateOption, existing_state, open_console, state_folder

if TYPE_CHECKING:
    from mugv.platform.registry import Registry

NameOption = Annotated[str, typer.Option("--name", help="Name of the registered model.")]


def open_registry(state: Path | None) -> Registry:
    """The registry at MLFLOW_TRACKING_URI, or the one in the state folder."""
    import os

    from mugv.platform.registry import Registry
    from mugv.platform.tracking import Tracking

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        existing_state(state)
    return Registry(Tracking.of_state(state_folder(state)))


def lineage(
    model: Annotated[str, typer.Argument(help="models:/mugv@champion or models:/mugv/3")] = "models:/mugv@champion",
    state: StateOption = None,
) -> None:
    """Where a model came from: run, stages, checkpoints, data, commit, recipe."""
    from mugv.platform.lineage import lineage_tree

    registry = open_registry(state)
    version = registry.resolve(model)
    champion = registry.champion(version.name)
    aliases = ["champion"] if champion and champion.version == version.version else []
    open_console().print(lineage_tree(version, registry.lineage(version), aliases), crop=False, no_wrap=True, overflow="ignore")


def promote(
    version: Annotated[str, typer.Argument(help="Number of the version.")], name: NameOption = "mugv", state: StateOption = None
) -> None:
    """Make a version the champion, whatever the gate said."""
    promoted = open_registry(state).promote(name, version, "by hand")
    typer.echo(f"champion of {name} is now version {promoted.version}")


def rollback(name: NameOption = "mugv", state: StateOption = None) -> None:
    """Give `champion` back to the version that had it before."""
    left, back = open_registry(state).rollback(name)
    typer.echo(f"champion of {name} is now version {back.version} again (was {left.version})")
