"""`mugv plan`: what a run would do and cost. Runs nothing, writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mugv.cli.common import CaptionsOption, RecipeOption, SetOption, StateOption, VideosOption, open_console, read_recipe, state_folder

if TYPE_CHECKING:
    from rich.console import Console

    from mugv.cli.expected import Expected
    from mugv.recipe import Recipe
    from mugv.recipe.schema import TrainStage
    from mugv.stages.graph import Node

GPU_FLOPS = 0.35 * 989e12
"""FLOP/s of one H100 at 35 % of its bf16 peak."""
GPU_MEMORY = 80e9

TO_RUN = ("miss", "unknown")


@dataclass(frozen=True)
class Cost:
    """What a stage is expected to take; 0 where it does not apply."""

    parameters: int = 0
    tokens: float = 0.0
    flops: float = 0.0
    memory: float = 0.0


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
) -> None:
    """The stages, hit or miss, parameters, tokens, FLOPs, memory, expected time. With --gpus: parallel layouts that fit."""
    from rich.table import Table

    from mugv.cli.expected import expected
    from mugv.stages.graph import build_graph

    resolved = read_recipe(recipe, changes, videos, captions)
    if gpus is not None:
        from mugv.cli.plan_layouts import print_layouts
        from mugv.training.layouts import Cluster

        print_layouts(open_console(), resolved, Cluster(gpus, gpu_memory * 1e9, gpus_per_node, mfu), epoch)
        return
    folder = state_folder(state)
    nodes = build_graph(resolved)
    status = _status(resolved, nodes, folder)
    table = Table("stage", "cache", "parameters", "tokens", "FLOPs", "memory/rank", "time", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    total, fullest = 0.0, 0.0
    on_a_cpu = {} if resolved.resources.train.gpus else expected(resolved, nodes)
    for name, node, count in _rows(nodes, status):
        cost = node_cost(resolved, node)
        fullest = max(fullest, cost.memory)
        seconds, how = expected_seconds(resolved, node, cost, folder, on_a_cpu)
        total += seconds * count if status[node.name] in TO_RUN else 0.0
        table.add_row(name, status[node.name], *_cells(cost), f"{how}{_time(seconds)}" if seconds else "")
    console = open_console()
    console.print(table)
    _print_models(console, resolved)
    misses = sum(s in TO_RUN for s in status.values())
    if resolved.resources.train.gpus and fullest > GPU_MEMORY:
        console.print(
            f"parallel: a rank needs {fullest / 1e9:.0f} GB, more than a GPU of {GPU_MEMORY / 1e9:g} GB;"
            f" `mugv plan --gpus {resolved.parallel.world}` proposes layouts that fit"
        )
    console.print(f"{misses} of {len(nodes)} stages would run, about {_time(total)}; = measured here, ~ estimated from its work")


def _rows(nodes: list[Node], status: dict[str, str]) -> Iterator[tuple[str, Node, int]]:
    """Name, node, how many: the shards of curation share a row for each status."""
    from mugv.stages.graph import SHARD_INPUTS

    for (stage, state), group in groupby(nodes, lambda n: (n.stage if n.stage in SHARD_INPUTS else n.name, status[n.name])):
        members = list(group)
        assert status[members[0].name] == state
        yield (f"{stage} x {len(members)}" if len(members) > 1 else members[0].name), members[0], len(members)


def _status(recipe: Recipe, nodes: list[Node], state: Path) -> dict[str, str]:
    """hit, miss, or `not needed` for an absent output that nothing would read. Videos elsewhere: their digest is not known here."""
    from mugv.curation.sources_read import known_here
    from mugv.stages.execute import RunEnvironment, cached_nodes, resolve_data_digest
    from mugv.stages.graph import needed_nodes, node_keys

    if recipe.data.videos and not known_here(recipe.data.videos):
        return {node.name: "unknown" for node in nodes}
    import os

    environment = RunEnvironment.from_env({**os.environ, "MUGV_STATE": str(state)})
    hits = set(cached_nodes(nodes, node_keys(recipe, resolve_data_digest(recipe)), environment.open_store()))
    needed = needed_nodes(nodes, hits)
    return {n.name: "hit" if n.name in hits else "miss" if n.name in needed else "not needed" for n in nodes}


def node_cost(recipe: Recipe, node: Node) -> Cost:
    """Parameters, tokens, FLOPs and memory of the stages that train or generate."""
    from mugv.precision import resolve
    from mugv.training.flops import stage_divisor
    from mugv.training.memory import VALUE_BYTES

    if node.stage == "pretrain":
        return _training_cost(recipe, recipe.pretrain[node.index], stage_divisor(recipe, node.index))
    if node.stage == "sft" and recipe.sft:
        return _training_cost(recipe, recipe.sft)
    if node.stage == "align" and recipe.align:
        round_ = recipe.align.rounds[node.index]
        device = "cuda" if recipe.resources.train.gpus else "cpu"
        # A preference step runs the network and its frozen reference: four forwards' worth of FLOPs for each clip instead of three.
        like = last_stage(recipe).model_copy(update={"steps": round_.steps, "batch": round_.batch, "average_decay": 0.0})
        cost = _training_cost(recipe, like, copies=VALUE_BYTES[resolve(recipe.parallel.precision, device)])
        return replace(cost, flops=cost.flops * 4 / 3)
    if node.stage in ("candidates", "evaluate"):
        return _sampling_cost(recipe, node.stage)
    if node.stage == "train_vae":
        from mugv.vae.model import count_parameters

        return Cost(parameters=count_parameters(recipe.vae.model))
    return Cost()


def _training_cost(recipe: Recipe, stage: TrainStage, divisor: int = 1, copies: int = 0) -> Cost:
    from mugv.training.flops import stage_cost
    from mugv.training.memory import recipe_memory

    found = stage_cost(recipe, stage, divisor)
    return Cost(found.parameters, found.tokens, found.flops, recipe_memory(recipe, stage, found.video, divisor, copies).total)


def last_stage(recipe: Recipe) -> TrainStage:
    return recipe.sft or recipe.pretrain[-1]


def generated_clips(recipe: Recipe, stage: str) -> int:
    """Clips that a stage samples."""
    if stage == "candidates" and recipe.align:
        return recipe.align.prompts * recipe.align.candidates
    return 3 * recipe.evaluate.clips if stage == "evaluate" else 0


def _sampling_cost(recipe: Recipe, stage: str) -> Cost:
    """Forward passes of the sampler, two a step under guidance."""
    from mugv.training.flops import caption_tokens, dit_parameters, forward_flops, tokens

    sampler = recipe.align.sampler if stage == "candidates" and recipe.align else recipe.evaluate.sampler
    clips = generated_clips(recipe, stage)
    shape = last_stage(recipe)
    sequence = tokens(recipe.dit, shape.size, shape.frames)
    passes = clips * sampler.steps * (2 if sampler.guidance != 1 else 1)
    flops = passes * forward_flops(recipe.dit, recipe.text.width, sequence, caption_tokens(recipe))
    return Cost(dit_parameters(recipe.dit, recipe.text.width), float(passes) * sequence, flops)


def expected_seconds(recipe: Recipe, node: Node, cost: Cost, state: Path, on_a_cpu: Mapping[str, Expected]) -> tuple[float, str]:
    """Seconds, and whether they were measured in this state folder (`=`) or follow from the work (`~`); 0 when nothing is known."""
    from mugv.platform.records import all_runs

    for run in all_runs(state):
        stage = run.stage(node.name)
        if stage.get("status") == "ran" and run.read().get("name") == recipe.name:
            return float(stage["ended"] - stage["started"]), "="
    if recipe.resources.train.gpus:
        return cost.flops / (GPU_FLOPS * recipe.parallel.world), "~"
    return on_a_cpu[node.name].seconds if node.name in on_a_cpu else 0.0, "~"


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


def _print_models(console: Console, recipe: Recipe) -> None:
    from mugv.training.flops import dit_parameters
    from mugv.vae.model import count_parameters

    dit, vae = dit_parameters(recipe.dit, recipe.text.width), count_parameters(recipe.vae.model)
    console.print(f"DiT {dit:,} parameters, VAE {vae:,} parameters, world {recipe.parallel.world}")
