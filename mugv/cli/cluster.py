"""`mugv compile`, `mugv submit`, `mugv schedule`: the same pipeline on a Kubeflow cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mugv.cli.common import CaptionsOption, EndpointOption, RecipeOption, SetOption, VideosOption, check_output, read_recipe

if TYPE_CHECKING:
    from mugv.recipe import Recipe
    from mugv.stages.roots import Roots


def compile_(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .yaml.")] = Path("pipeline.yaml"),
    recipe: RecipeOption = None,
    changes: SetOption = None,
    videos: VideosOption = None,
    captions: CaptionsOption = None,
    pipeline: Annotated[str, typer.Option(help="train, data or retrain.")] = "train",
) -> None:
    """Write the pipeline as KFP intermediate representation."""
    from mugv.platform.kfp_client import compile_pipeline

    check_output("-o", output)
    resolved = _carried(read_recipe(recipe, changes, videos, captions))
    for obstacle in _obstacles(resolved, pipeline):
        typer.echo(f"warning: this version cannot run the recipe: {obstacle}", err=True)
    written = compile_pipeline(resolved, output, _roots(resolved, pipeline), kind=_kind(pipeline))
    typer.echo(f"wrote {written}")


def submit(
    recipe: RecipeOption = None,
    changes: SetOption = None,
    endpoint: EndpointOption = None,
    pipeline: Annotated[str, typer.Option(help="train, data or retrain.")] = "train",
) -> None:
    """Start the pipeline once on a cluster."""
    from mugv.platform.kfp_client import submit as send

    resolved = _carried(_runnable(read_recipe(recipe, changes), pipeline))
    typer.echo(f"run {send(resolved, endpoint, _roots(resolved, pipeline), kind=_kind(pipeline))}")


def schedule(
    cron: Annotated[str, typer.Option(help='Six fields, seconds first: "0 0 3 * * *" is every day at 3:00.')],
    recipe: RecipeOption = None,
    changes: SetOption = None,
    endpoint: EndpointOption = None,
    pipeline: Annotated[str, typer.Option(help="train, data or retrain.")] = "retrain",
) -> None:
    """Run the pipeline by the clock on a cluster."""
    from mugv.platform.kfp_client import schedule as send

    resolved = _carried(_runnable(read_recipe(recipe, changes), pipeline))
    typer.echo(f"recurring run {send(resolved, endpoint, cron, kind=_kind(pipeline))}")


def _kind(name: str):  # type: ignore[no-untyped-def]
    from mugv.errors import UserError

    if name not in ("train", "data", "retrain"):
        raise UserError(f"--pipeline {name}: not known; use train, data or retrain")
    return name


def _carried(recipe: Recipe) -> Recipe:
    """The recipe as the tasks can read it: files of this machine are in the store."""
    from mugv.platform.carry import carry_files

    made, notes = carry_files(recipe)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    return made


def _obstacles(recipe: Recipe, kind: str) -> list[str]:
    """What stands in the way of the pipeline; the data pipeline trains nothing."""
    from mugv.stages.preflight import obstacles

    return [] if kind == "data" else obstacles(recipe, here=False)


def _runnable(recipe: Recipe, kind: str) -> Recipe:
    from mugv.stages.preflight import check

    if kind != "data":
        check(recipe, here=False)
    return recipe


def _roots(recipe: Recipe, kind: str) -> Roots | None:
    """What the cache keys start from, when the data can be read from here; otherwise the run's first task finds it."""
    from mugv.curation.sources_read import known_here
    from mugv.stages.roots import Roots

    videos = recipe.data.videos
    if kind == "retrain" or (videos is not None and not known_here(videos)):
        return None
    return Roots.of(recipe)
