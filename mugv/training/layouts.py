"""Parallel layouts of a cluster: every valid one, what it needs of a GPU, and an estimate of its step time to rank them by.

Times are estimates from stated constants (below), not measurements: they order layouts and are printed as estimates. Memory is
mugv.training.memory's model; a layout that does not fit is never proposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from mugv.recipe.schema import Parallel, Recipe, TrainStage
from mugv.training.flops import H100_PEAK, StageCost, stage_cost
from mugv.training.memory import RankMemory, Shapes, block_tensors, micro_batch_of, step_memory, uses_ulysses

NVLINK = 300e9
"""Bytes a second that a GPU sends and receives inside a node (H100: 450e9 each way by the data sheet)."""
NETWORK = 40e9
"""Bytes a second of a GPU's share of the network between nodes (400 Gb/s InfiniBand a GPU, four fifths of it)."""
HBM = 2.5e12
"""Bytes a second of GPU memory (H100: 3.35e12 by the data sheet)."""
RESERVE = 6e9
"""Bytes kept free for the CUDA context, NCCL, cuBLAS and fragmentation."""
CONTEXTS = (1, 2, 4, 8, 16)
MICRO_BATCHES = (1, 2, 4, 8, 16)
VIRTUALS = (1, 2, 4, 7)
RECOMPUTE: tuple[Literal["none", "selective", "full"], ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Cluster:
    """What there is, and the stated speed: `mfu` is the share of `peak` that a GPU reaches while it computes."""

    gpus: int
    memory: float = 80e9
    gpus_per_node: int = 8
    mfu: float = 0.40
    peak: float = H100_PEAK

    @property
    def usable(self) -> float:
        return self.memory - RESERVE

    def seconds(self, flops: float) -> float:
        """Of FLOPs shared by all GPUs at the stated MFU: no bubble, no waiting."""
        return flops / (self.gpus * self.peak * self.mfu)

    def bandwidth(self, ranks: int) -> float:
        """Of a group of that many neighbouring ranks."""
        return NVLINK if ranks <= self.gpus_per_node else NETWORK


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step by cause, estimated."""

    compute: float
    recompute: float
    bubble: float
    tensor: float
    context: float
    pipeline: float
    data: float

    @property
    def total(self) -> float:
        return self.compute + self.recompute + self.bubble + self.tensor + self.context + self.pipeline + self.data


@dataclass(frozen=True)
class Work:
    """One training stage of a recipe, as the planner sees it."""

    recipe: Recipe
    stage: TrainStage
    name: str
    divisor: int

    @cached_property
    def cost(self) -> StageCost:
        return stage_cost(self.recipe, self.stage, self.divisor)

    @property
    def average(self) -> bool:
        return bool(self.stage.average_decay)

    @property
    def has_images(self) -> bool:
        return any(getattr(self.stage, "image_fraction", (0.0,)))


@dataclass(frozen=True)
class Proposal:
    """A layout that fits, with its memory and estimated step."""

    layout: Parallel
    micro_batches: int
    memory: RankMemory
    time: StepTime


def candidates(work: Work, cluster: Cluster) -> Iterator[Parallel]:
    """Every valid layout of all GPUs. ZeRO-1 and its overlap are always on (they cost nothing here), sequence parallelism with TP."""
    model, heads = work.recipe.dit, work.recipe.dit.heads // work.divisor
    tensors = [t for t in range(1, cluster.gpus_per_node + 1) if heads % t == 0 and cluster.gpus_per_node % t == 0]
    pipelines = [p for p in range(1, model.layers + 1) if model.layers % p == 0]
    for tensor in tensors:
        for pipeline in pipelines:
            for context in CONTEXTS:
                if cluster.gpus % (tensor * pipeline * context) == 0:
                    yield from _with_batches(work, cluster, tensor, pipeline, context)


def _with_batches(work: Work, cluster: Cluster, tensor: int, pipeline: int, context: int) -> Iterator[Parallel]:
    """Micro-batches, interleaving and recompute modes of given sizes of the groups."""
    data = cluster.gpus // (tensor * pipeline * context)
    if work.stage.batch % data:
        return
    local = work.stage.batch // data
    for size in (n for n in MICRO_BATCHES if local % n == 0):
        for virtual in VIRTUALS if pipeline > 1 else (1,):
            if work.recipe.dit.layers % (pipeline * virtual) or (virtual > 1 and not _can_interleave(work, local // size, pipeline)):
                continue
            for recompute in RECOMPUTE:
                yield Parallel(
                    world=cluster.gpus,
                    tensor=tensor,
                    pipeline=pipeline,
                    virtual_pipeline=virtual,
                    context=context,
                    sequence_parallel=tensor > 1,
                    distributed_optimizer=True,
                    overlap=True,
                    recompute=recompute,
                    precision="bf16",
                    micro_batch=size,
                )


def _can_interleave(work: Work, micro_batches: int, pipeline: int) -> bool:
    """megatron wants whole rounds of micro-batches; where images come beside videos their number changes with the step."""
    return micro_batches % pipeline == 0 and not work.has_images


def evaluate(work: Work, layout: Parallel, cluster: Cluster) -> Proposal:
    """Memory and estimated step time of one layout."""
    micro, count = micro_batch_of(layout, work.cost.video, work.stage.batch)
    shapes = Shapes(work.recipe.dit, work.recipe.text.width, layout, micro, work.divisor)
    memory = step_memory(shapes, count, average=work.average)
    return Proposal(layout, count, memory, step_time(work, shapes, count, cluster, memory))


def step_time(work: Work, s: Shapes, micro_batches: int, cluster: Cluster, memory: RankMemory) -> StepTime:
    """Compute at the stated MFU, the pipeline's bubble over everything a micro-batch does, and communication that nothing hides."""
    layout, stage = s.layout, work.stage
    full = layout.recompute == "full"
    blocks = s.model.layers // layout.pipeline * micro_batches
    compute = cluster.seconds(work.cost.sample.training * stage.batch)
    extra = cluster.seconds(work.cost.sample.blocks * stage.batch) if full else 0.0
    if layout.recompute == "selective":
        extra = blocks * 3 * sum(k.size for k in block_tensors(s) if k.remade) / HBM
    tensor = blocks * _tensor_bytes(s, full) / cluster.bandwidth(layout.tensor)
    context = blocks * _context_bytes(s, full) / cluster.bandwidth(layout.tensor * layout.context)
    bubble = (layout.pipeline - 1) / (micro_batches * layout.virtual_pipeline)
    messages = 2 * micro_batches * layout.virtual_pipeline if layout.pipeline > 1 else 0
    copies = layout.data * layout.context
    exchanged = (memory.gradients + memory.weights) * (copies - 1) / copies
    return StepTime(
        compute=compute,
        recompute=extra,
        bubble=bubble * (compute + extra + tensor + context),
        tensor=tensor,
        context=context,
        pipeline=messages * s.message / cluster.bandwidth(layout.world),
        data=exchanged / cluster.bandwidth(layout.world // layout.pipeline),
    )


def _tensor_bytes(s: Shapes, full: bool) -> float:
    """Of one block and micro-batch under TP with SP: each of three column linears gathers its input twice and scatters its gradient,
    each of three row linears scatters its output and gathers its gradient; full recompute repeats the forward six."""
    ranks = s.layout.tensor
    return (15 + (6 if full else 0)) * s.whole * (ranks - 1) / ranks


def _context_bytes(s: Shapes, full: bool) -> float:
    """Of one block and micro-batch: query, key, value and result exchanged (Ulysses), or keys and values gathered; the same in
    backward, and again in recompute."""
    ranks, passes = s.layout.context, 3 if full else 2
    if ranks == 1:
        return 0.0
    return passes * (4 * s.wide * (ranks - 1) / ranks if uses_ulysses(s) else 2 * s.wide * (ranks - 1))


def all_proposals(work: Work, cluster: Cluster) -> list[Proposal]:
    """Every valid layout, fitting or not."""
    return [evaluate(work, layout, cluster) for layout in candidates(work, cluster)]


def best(found: list[Proposal], cluster: Cluster, count: int) -> list[Proposal]:
    """The fastest that fit, at most one for each (tensor, pipeline, context)."""
    chosen: dict[tuple[int, int, int], Proposal] = {}
    for proposal in sorted((p for p in found if p.memory.total <= cluster.usable), key=lambda p: (p.time.total, p.memory.total)):
        chosen.setdefault((proposal.layout.tensor, proposal.layout.pipeline, proposal.layout.context), proposal)
    return list(chosen.values())[:count]


def best_for_all(stages: list[tuple[Work, list[Proposal]]], cluster: Cluster) -> Parallel | None:
    """The layout that fits every stage and takes the least time over their steps; a recipe has one."""
    totals: dict[Parallel, float] = {}
    for number, (work, found) in enumerate(stages):
        fits = {p.layout: p.time.total * work.stage.steps for p in found if p.memory.total <= cluster.usable}
        totals = fits if number == 0 else {layout: totals[layout] + seconds for layout, seconds in fits.items() if layout in totals}
    return min(totals, key=lambda layout: totals[layout]) if totals else None
