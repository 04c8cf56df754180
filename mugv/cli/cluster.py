"""`mugv compile`, `mugv submit`, `mugv schedule`: the same pipeline on a Kubeflow cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mugv.cli.common import CaptionsOption, EndpointOption, RecipeOption, SetOption, VideosOption, check_output, read_recipe

if TYPE_CHECKING:
    from mugv.recipe import Recipe
    from mugv.stages.roots import Roots

PipelineOption = Annotated[str, typer.Option(help="train, data or retrain.")]
RepositoryOption = Annotated[str, typer.Option(metavar="URL", help="retrain: git repository of the DVC project that holds the videos.")]
PathOption = Annotated[str, typer.Option(help="retrain: path that DVC tracks in the repository (default: videos).")]
RevisionOption = Annotated[str, typer.Option(help="retrain: branch, tag or commit; a branch is read anew by each run.")]
NamespaceOption = Annotated[str | None, typer.Option(help="Namespace of the user in a multi-user installation (default: KFP_NAMESPACE).")]
AccountOption = Annotated[str, typer.Option(help="Service account of the tasks.")]


def compile_(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .yaml.")] = Path("pipeline.yaml"),
    recipe: RecipeOption = None,
    changes: SetOption = None,
    videos: VideosOption = None,
    captions: CaptionsOption = None,
    pipeline: PipelineOption = "train",
    repository: RepositoryOption = "",
    path: PathOption = "",
    revision: RevisionOption = "",
) -> None:
    """Write the pipeline as KFP intermediate representation."""
    from mugv.platform.kfp_client import compile_pipeline

    check_output("-o", output)
    data = _data(_kind(pipeline), repository, path, revision)
    resolved = _carried(read_recipe(recipe, changes, videos, captions))
    for obstacle in _obstacles(resolved, pipeline):
        typer.echo(f"warning: this version cannot run the recipe: {obstacle}", err=True)
    written = compile_pipeline(resolved, output, _roots(resolved, pipeline), _kind(pipeline), data)
    typer.echo(f"wrote {written}")


def submit(
    recipe: RecipeOption = None,
    changes: SetOption = None,
    endpoint: EndpointOption = None,
    pipeline: PipelineOption = "train",
    repository: RepositoryOption = "",
    path: PathOption = "",
    revision: RevisionOption = "",
    namespace: NamespaceOption = None,
    service_account: AccountOption = "mugv-pipeline",
) -> None:
    """Start the pipeline once on a cluster."""
    from mugv.platform.kfp_api import resolve_endpoint
    from mugv.platform.kfp_client import submit as send

    data = _data(_kind(pipeline), repository, path, revision)
    resolve_endpoint(endpoint)
    _check_store()
    resolved = _carried(_runnable(read_recipe(recipe, changes), pipeline))
    roots = _roots(resolved, pipeline)
    missing = _not_stored(resolved, roots) if roots else []
    typer.echo(f"run {send(resolved, endpoint, roots, _kind(pipeline), data, namespace, service_account, missing)}")


def schedule(
    cron: Annotated[str, typer.Option(help='Six fields, seconds first: "0 0 3 * * *" is every day at 3:00.')],
    recipe: RecipeOption = None,
    changes: SetOption = None,
    endpoint: EndpointOption = None,
    pipeline: PipelineOption = "retrain",
    repository: RepositoryOption = "",
    path: PathOption = "",
    revision: RevisionOption = "",
    namespace: NamespaceOption = None,
    service_account: AccountOption = "mugv-pipeline",
) -> None:
    """Run the pipeline by the clock on a cluster."""
    from mugv.platform.cron import check_cron
    from mugv.platform.kfp_api import resolve_endpoint
    from mugv.platform.kfp_client import schedule as send

    check_cron(cron)
    data = _data(_kind(pipeline), repository, path, revision)
    resolve_endpoint(endpoint)
    _check_store()
    resolved = _carried(_runnable(read_recipe(recipe, changes), pipeline))
    typer.echo(f"recurring run {send(resolved, endpoint, cron, _kind(pipeline), data, namespace, service_account)}")


def _data(kind: str, repository: str, path: str, revision: str) -> dict[str, str] | None:
    """Where retraining finds its videos, looked at from here as far as that goes."""
    from mugv.errors import UserError
    from mugv.platform.dvc_remote import look

    given = repository or path or revision
    if given and kind != "retrain":
        raise UserError(f"--repository, --path and --revision are for --pipeline retrain; --pipeline {kind} takes the recipe's data.videos")
    note = look(repository, (path or "videos") if repository else path, revision)
    if note:
        typer.echo(f"note: {note}", err=True)
    return {"repository": repository, "path": path or "videos", "revision": revision} if repository else None


def _check_store() -> None:
    """Where the store is known here: no task would find a bucket that is not there."""
    import os

    address = os.environ.get("MUGV_STORE", "")
    if address.startswith("s3://"):
        from mugv.store.s3 import S3Store

        S3Store(address, Path("unused")).check_bucket()


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
    from mugv.stages.roots import Roots, missing_here

    videos = recipe.data.videos
    if kind == "retrain" or (videos is not None and not known_here(videos)) or missing_here(recipe):
        return None
    return Roots.of(recipe)


def _not_stored(recipe: Recipe, roots: Roots) -> list[str]:
    """Nodes whose output the store lacks: Kubeflow may still have them in its cache, and what reads them would find nothing."""
    import os

    from mugv.stages.environment import RunEnvironment
    from mugv.stages.execute import cached_nodes
    from mugv.stages.graph import SHARD_INPUTS, Keys

    keys = Keys(recipe, roots)
    names = [name for name, node in keys.nodes.items() if node.stage not in SHARD_INPUTS]
    if not os.environ.get("MUGV_STORE"):
        typer.echo("note: MUGV_STORE is not set here, so Kubeflow's cache cannot be compared with the store and is not used", err=True)
        return names
    stored = cached_nodes(names, keys, RunEnvironment.from_env().open_store())
    return [name for name in names if name not in stored]
