"""`mugv stage NAME`: one stage by hand, on folders; the data stages of dvc.yaml call it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mugv.cli.common import CaptionsOption, RecipeOption, SetOption, VideosOption, check_scratch, check_threads, read_recipe
from mugv.errors import UserError


def stage(
    name: Annotated[
        str, typer.Argument(help="A node of the graph: footage, scan, curate_shard-0, curate, train_vae, encode, pretrain-0, ...")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write. What this stage wrote there before is replaced when it is done.")],
    recipe: RecipeOption = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", metavar="NAME=PATH", help="Folder of an input; may be repeated.")] = None,
    changes: SetOption = None,
    videos: VideosOption = None,
    captions: CaptionsOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace --out whatever it holds, and unfinished work of another recipe, inputs or code.")
    ] = False,
) -> None:
    """Run one stage on folders, without the cache. Killed, it goes on where it was under the same recipe, inputs and code."""
    from mugv.stages.by_hand import run_by_hand

    check_threads()
    check_scratch()
    metrics = run_by_hand(name, read_recipe(recipe, changes, videos, captions, here=True), _folders(inputs or []), out, force)
    for key, value in metrics.items():
        typer.echo(f"{key} {value:g}")


def _folders(inputs: list[str]) -> dict[str, Path]:
    folders = {}
    for item in inputs:
        name, equals, path = item.partition("=")
        if not equals:
            raise UserError(f"--input {item}: expected NAME=PATH, for example clips=data/clips")
        if not Path(path).is_dir():
            raise UserError(f"--input {name}: {path} is not a folder")
        folders[name] = Path(path).absolute()
    return folders
