"""`mugv plan --gpus N`: parallel layouts of each training stage that fit the GPUs, the fastest by estimate first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from mugv.cli.plan_checkpoints import Trouble, checkpoint_document, print_checkpoints
from mugv.training import layouts
from mugv.training.flops import stage_divisor
from mugv.training.layouts import Cluster, Proposal, Work

if TYPE_CHECKING:
    from rich.console import Console

    from mugv.recipe import Recipe
    from mugv.recipe.schema import Parallel

SHOWN = 3
DAY = 86400.0


def print_layouts(console: Console, recipe: Recipe, cluster: Cluster, epoch: int, trouble: Trouble) -> None:
    """Assumptions, the best few layouts of each stage, the best one for all stages, days, and how often to save."""
    stages = [(work, layouts.all_proposals(work, cluster)) for work in training_stages(recipe)]
    _print_assumptions(console, cluster)
    days = 0.0
    saves = {}
    for work, found in stages:
        chosen = layouts.best(found, cluster, SHOWN)
        _print_stage(console, work, cluster, epoch)
        if not chosen:
            console.print(none_fits(work, found, cluster))
            continue
        console.print(_table(work, chosen, cluster))
        days += chosen[0].time.total * work.stage.steps / DAY
        saves[work.name] = checkpoint_document(work, chosen[0].time.total, cluster, trouble)
    _print_common(console, stages, cluster)
    console.print(f"all stages, each under its first layout: {days:.1f} days")
    if saves:
        print_checkpoints(console, saves, cluster, trouble)


def layouts_document(recipe: Recipe, cluster: Cluster, trouble: Trouble) -> dict[str, Any]:
    """What --json prints: the best few layouts of each stage, and one for all stages."""
    stages = [(work, layouts.all_proposals(work, cluster)) for work in training_stages(recipe)]
    layout = layouts.best_for_all(stages, cluster)
    return {
        "recipe": recipe.name,
        "gpus": cluster.gpus,
        "gpus_per_node": cluster.gpus_per_node,
        "gpu_memory_bytes": cluster.memory,
        "mfu": cluster.mfu,
        "stages": [_stage_document(work, found, cluster, trouble) for work, found in stages],
        "layout_for_all": layout.model_dump(mode="json") if layout else None,
    }


def _stage_document(work: Work, found: list[Proposal], cluster: Cluster, trouble: Trouble) -> dict[str, Any]:
    chosen = layouts.best(found, cluster, SHOWN)
    return {
        "stage": work.name,
        "parameters": work.cost.parameters,
        "tokens": work.cost.video.tokens,
        "flops_a_sample": work.cost.sample.training,
        "steps": work.stage.steps,
        "batch": work.stage.batch,
        "layouts": [
            {
                "layout": p.layout.model_dump(mode="json"),
                "micro_batches": p.micro_batches,
                "memory_bytes": p.memory.total,
                "seconds_a_step": p.time.total,
                "seconds": p.time.total * work.stage.steps,
            }
            for p in chosen
        ],
        "checkpoint": checkpoint_document(work, chosen[0].time.total, cluster, trouble) if chosen else None,
        "problem": None if chosen else none_fits(work, found, cluster),
    }


def training_stages(recipe: Recipe) -> list[Work]:
    """Pretraining stages and SFT; preference rounds are short and run under SFT's layout."""
    found = [Work(recipe, stage, stage.name, stage_divisor(recipe, i)) for i, stage in enumerate(recipe.pretrain)]
    return [*found, Work(recipe, recipe.sft, "sft", 1)] if recipe.sft else found


def describe(layout: Parallel) -> str:
    """TP4 SP PP2x7 CP2 DP32: tensor, sequence, pipeline x parts of a rank, context, data."""
    virtual = f"x{layout.virtual_pipeline}" if layout.virtual_pipeline > 1 else ""
    sequence = " SP" if layout.sequence_parallel else ""
    return f"TP{layout.tensor}{sequence} PP{layout.pipeline}{virtual} CP{layout.context} DP{layout.data}, recompute {layout.recompute}"


def none_fits(work: Work, found: list[Proposal], cluster: Cluster) -> str:
    """One line: why nothing is proposed, and the smallest requirement."""
    where = f"{work.name}: no layout of {cluster.gpus} GPUs"
    if not found:
        return f"{where} divides a batch of {work.stage.batch} clips, {work.recipe.dit.heads // work.divisor} heads and the layers"
    least = min(found, key=lambda p: p.memory.total)
    need = (least.memory.total + layouts.RESERVE) / 1e9
    return f"{where} fits {cluster.memory / 1e9:g} GB; the smallest needs {need:.1f} GB a GPU ({describe(least.layout)})"


def _print_assumptions(console: Console, cluster: Cluster) -> None:
    console.print(
        f"{cluster.gpus} GPUs, {cluster.gpus_per_node} a node. Memory is the model of mugv/training/memory.py; {layouts.RESERVE / 1e9:g} of"
        f" {cluster.memory / 1e9:g} GB are kept free for CUDA, NCCL and fragmentation. Times are ESTIMATES, not measurements:"
    )
    console.print(
        f"a GPU computes at {cluster.mfu:.0%} of {cluster.peak / 1e12:g} TFLOP/s; nothing hides communication: NVLink"
        f" {layouts.NVLINK / 1e9:g} GB/s, network {layouts.NETWORK / 1e9:g} GB/s, memory {layouts.HBM / 1e9:g} GB/s a GPU. Small pieces"
        " of work are taken to be as efficient as large ones. GB = 10^9 bytes."
    )


def _print_stage(console: Console, work: Work, cluster: Cluster, epoch: int) -> None:
    cost, stage = work.cost, work.stage
    sample = cost.sample.training
    step = cluster.seconds(sample * stage.batch)
    images = " (images and videos in their mean share)" if work.has_images else ""
    console.print(
        f"\n{work.name}: {cost.parameters / 1e9:.2f} B parameters, {stage.size[0]}x{stage.size[1]}, {stage.frames} frames,"
        f" {cost.video.tokens:,} tokens, {sample / 1e15:.3g} PFLOP a sample{images}"
    )
    console.print(
        f"  {stage.steps:,} steps of {stage.batch} clips. All GPUs at {cluster.mfu:.0%} all the time: {step:.2f} s a step,"
        f" {_time(step * stage.steps)} the stage, {_time(cluster.seconds(sample * epoch))} an epoch of {epoch:,} clips"
    )


def _table(work: Work, chosen: list[Proposal], cluster: Cluster) -> Table:
    headings = ("layout", "micro-batches", "GB a GPU", "weights", "gradients", "optimizer", "copies", "activations", "other")
    table = Table(*headings, "step", "MFU", "stage", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for p in chosen:
        memory, ideal = p.memory, work.cost.sample.training * work.stage.batch
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.copies, memory.activations, memory.transient + memory.buffers)
        table.add_row(
            f"  {describe(p.layout)}",
            f"{p.micro_batches} of {p.layout.micro_batch}",
            f"{memory.total / 1e9:.1f}",
            *(f"{part / 1e9:.1f}" for part in parts),
            f"~{p.time.total:.2f} s",
            f"~{ideal / (p.time.total * p.layout.world * cluster.peak):.0%}",
            f"~{_time(p.time.total * work.stage.steps)}",
        )
    return table


def _time(seconds: float) -> str:
    return f"{seconds / DAY:.1f} days" if seconds >= 2 * DAY else f"{seconds / 3600:.1f} hours"


def _print_common(console: Console, stages: list[tuple[Work, list[Proposal]]], cluster: Cluster) -> None:
    layout = layouts.best_for_all(stages, cluster)
    if layout is None:
        console.print("\none layout for all stages: none fits them all")
        return
    keys = {"world", "tensor", "pipeline", "virtual_pipeline", "context", "sequence_parallel", "distributed_optimizer", "overlap"}
    chosen = layout.model_dump(include=keys | {"recompute", "precision", "micro_batch"})
    seconds = sum(layouts.evaluate(work, layout, cluster).time.total * work.stage.steps for work, _ in stages)
    text = ", ".join(f"{key}: {str(value).lower()}" for key, value in chosen.items())
    console.print(f"\none layout for all stages, ~{seconds / DAY:.1f} days: parallel: {{{text}}}")
