"""`mugv plan`: what a run would do and cost. Runs nothing, writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mugv.cli.common import (
    CaptionsOption,
    JsonOption,
    RecipeOption,
    SetOption,
    StateOption,
    VideosOption,
    open_console,
    print_json,
    read_recipe,
    state_folder,
)
from mugv.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mugv.cli.plan_cost import Cost, Seconds
    from mugv.recipe import Recipe
    from mugv.stages.graph import Node

TO_RUN = ("miss", "unknown")


@dataclass(frozen=True)
class Row:
    """A node, or the shards of curation that share a status."""

    node: Node
    count: int
    cache: str
    cost: Cost
    time: Seconds

    @property
    def name(self) -> str:
        return f"{self.node.stage} x {self.count}" if self.count > 1 else self.node.name

    @property
    def seconds_to_run(self) -> float:
        return self.time.seconds * self.count if self.cache in TO_RUN else 0.0


def plan(
    recipe: RecipeOption = None,
    changes: SetOption = None,
    videos: VideosOption = None,
    captions: CaptionsOption = None,
    state: StateOption = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Propose layouts of that many GPUs instead.")] = None,
    gpu_memory: Annotated[float, typer.Option(min=1, help="With --gpus: GB (10^9 bytes) of one GPU.")] = 80,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="With --gpus.")] = 8,
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="With --gpus: share of its peak that a GPU reaches computing.")] = 0.40,
    epoch: Annotated[int, typer.Option(min=1, help="With --gpus: clips of an epoch.")] = 1_000_000,
    failures: Annotated[float, typer.Option(min=0.001, help="With --gpus: unexpected stops per 1,000 GPUs a day.")] = 0.485,
    restart: Annotated[float, typer.Option(min=0, help="With --gpus: seconds from a noticed failure to the next step.")] = 600,
    storage: Annotated[float, typer.Option(min=0.001, help="With --gpus: GB/s of all GPUs together that write a checkpoint.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """The stages, hit or miss, parameters, tokens, FLOPs, memory, expected time. With --gpus: layouts that fit, and how often to save.

    Ends with exit code 2, after all the rest, when this version cannot run the recipe.
    """
    resolved = read_recipe(recipe, changes, videos, captions, here=True)
    if gpus is not None:
        from mugv.cli.plan_checkpoints import Trouble
        from mugv.cli.plan_layouts import layouts_document, print_layouts
        from mugv.training.goodput import Failures
        from mugv.training.layouts import Cluster

        cluster = Cluster(gpus, gpu_memory * 1e9, gpus_per_node, mfu)
        trouble = Trouble(Failures(failures, restart=restart), storage * 1e9)
        if as_json:
            print_json(layouts_document(resolved, cluster, trouble))
        else:
            print_layouts(open_console(), resolved, cluster, epoch, trouble)
        return
    with _waiting():
        rows = list(_rows(resolved, state_folder(state)))
        document = _document(resolved, rows)
    if as_json:
        print_json(document)
    else:
        _print(open_console(), rows, document)
    if document["cannot_run"]:
        raise UserError(f"this version cannot run the recipe: {'; '.join(document['cannot_run'])}")


def _waiting() -> Any:
    """At a terminal, that something is going on: the first look at a large list of videos takes a while."""
    from rich.console import Console

    console = Console(stderr=True)
    return console.status("looking at data, code and store") if console.is_terminal else nullcontext()


def _rows(recipe: Recipe, state: Path) -> Iterator[Row]:
    from mugv.cli.expected import expected
    from mugv.cli.plan_cost import expected_seconds, measured_here, node_cost
    from mugv.stages.graph import SHARD_INPUTS, build_graph

    nodes = build_graph(recipe)
    status = _status(recipe, nodes, state)
    measured = measured_here(state, recipe)
    on_a_cpu = {} if recipe.resources.train.gpus else expected(recipe, nodes)
    for _, group in groupby(nodes, lambda n: (n.stage if n.stage in SHARD_INPUTS else n.name, status[n.name])):
        first, *others = group
        cost = node_cost(recipe, first)
        yield Row(first, 1 + len(others), status[first.name], cost, expected_seconds(recipe, first, cost, measured, on_a_cpu))


def _status(recipe: Recipe, nodes: list[Node], state: Path) -> dict[str, str]:
    """hit, miss, or `not needed` for an absent output that nothing would read. Videos elsewhere: their digest is not known here."""
    from mugv.curation.sources_read import known_here
    from mugv.stages.environment import RunEnvironment
    from mugv.stages.execute import cached_nodes
    from mugv.stages.graph import Keys, needed_nodes
    from mugv.stages.roots import Roots

    if recipe.data.videos and not known_here(recipe.data.videos):
        return {node.name: "unknown" for node in nodes}
    import os

    environment = RunEnvironment.from_env({**os.environ, "MUGV_STATE": str(state)})
    keys = Keys(recipe, Roots.of(recipe, state))
    hits = set(cached_nodes(keys.nodes, keys, environment.open_store()))
    needed = needed_nodes(nodes, hits)
    return {n.name: "hit" if n.name in hits else "miss" if n.name in needed else "not needed" for n in nodes}


def _document(recipe: Recipe, rows: list[Row]) -> dict[str, Any]:
    """What --json prints."""
    from mugv.recipe import digest
    from mugv.stages.preflight import obstacles
    from mugv.training.flops import dit_parameters
    from mugv.vae.model import count_parameters

    return {
        "recipe": recipe.name,
        "recipe_digest": digest(recipe),
        "dit_parameters": dit_parameters(recipe.dit, recipe.text.width),
        "vae_parameters": count_parameters(recipe.vae.model),
        "world": recipe.parallel.world,
        "stages": [_stage(row) for row in rows],
        "stages_to_run": sum(row.count for row in rows if row.cache in TO_RUN),
        "stages_in_all": sum(row.count for row in rows),
        "seconds": sum(row.seconds_to_run for row in rows),
        "warnings": _warnings(recipe, rows),
        "cannot_run": obstacles(recipe, here=not recipe.resources.train.gpus),
    }


def _stage(row: Row) -> dict[str, Any]:
    cost = row.cost
    known = {"parameters": cost.parameters, "tokens": cost.tokens, "flops": cost.flops, "memory_bytes": cost.memory}
    return {
        "name": row.node.name,
        "stage": row.node.stage,
        "count": row.count,
        "cache": row.cache,
        **{key: value or None for key, value in known.items()},
        "seconds": row.time.seconds if row.time.source else None,
        "seconds_are": row.time.source or None,
    }


def _warnings(recipe: Recipe, rows: list[Row]) -> list[str]:
    from mugv.cli.plan_cost import GPU_MEMORY

    fullest = max(row.cost.memory for row in rows)
    if not recipe.resources.train.gpus or fullest <= GPU_MEMORY:
        return []
    need = f"parallel: a rank needs {fullest / 1e9:.0f} GB, more than a GPU of {GPU_MEMORY / 1e9:g} GB"
    return [f"{need}; `mugv plan --gpus {recipe.parallel.world}` proposes layouts that fit"]


def _print(console: Console, rows: list[Row], document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("stage", "cache", "parameters", "tokens", "FLOPs", "memory/rank", "time", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        mark = "=" if row.time.source == "measured" else "~"
        table.add_row(row.name, row.cache, *_cells(row.cost), f"{mark}{_time(row.time.seconds)}" if row.time.seconds else "")
    console.print(table)
    sizes = f"DiT {document['dit_parameters']:,} parameters, VAE {document['vae_parameters']:,} parameters"
    console.print(f"{sizes}, world {document['world']}")
    for warning in document["warnings"]:
        console.print(warning, markup=False)
    count, total = document["stages_to_run"], document["stages_in_all"]
    console.print(f"{count} of {total} stages would run, about {_time(document['seconds'])}; = measured here, ~ estimated from its work")


def _cells(cost: Cost) -> list[str]:
    return [
        f"{cost.parameters:,}" if cost.parameters else "",
        _short(cost.tokens),
        _short(cost.flops),
        f"{cost.memory / 1e9:.2f} GB" if cost.memory else "",
    ]


def _short(value: float) -> str:
    return f"{value:.3g}" if value else ""


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 200_000 else f"{seconds / 86400:.1f} days"
