"""How long a run takes in all: what each node computes, times how fast this machine has been at it so far.

The constants are seconds on one busy core (from runs of benchmarks/tiny_seeds, 28 November 2026); only their proportions matter, since
a run corrects them from its first minute on. Nodes whose size is not known before (how many clips a user's videos give) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mugv.precision import cpu_has_bf16

if TYPE_CHECKING:
    from mugv.recipe import Recipe
    from mugv.recipe.schema import VAEPhase
    from mugv.stages.graph import Node

START = 4.0
"""Of every stage: imports, reading inputs, writing the output."""
DIT_FLOPS, DIT_STEP = 4.0e10, 0.085
"""FLOP/s of the tiny DiT, in training and in its sampler; what a training step costs beside them (optimizer, small operations)."""
FRAME_WRITTEN, FRAME_CURATED = 4.2e-4, 2.2e-3
VAE_PIXEL = {"spatial": 8.8e-6, "temporal": 1.7e-5, "joint": 2.6e-5}
"""A pixel in a training step of the tiny VAE in fp32: of a frame, or of an 8-frame chunk (size x size)."""
PIXEL_ENCODED, PIXEL_DECODED = 9.7e-7, 1.6e-6
BF16_UNITS = 0.55
"""Time of training the VAE and encoding with it on a processor with bf16 units, over fp32."""
MEASURED_SECONDS = 8.0
"""Work that must be done before its speed says anything."""


@dataclass(frozen=True)
class Expected:
    """Seconds of a node: (units of progress, seconds a unit) of each part, one after the other."""

    parts: tuple[tuple[int, float], ...]

    @property
    def seconds(self) -> float:
        return START + sum(units * each for units, each in self.parts)

    def until(self, share: float) -> float:
        """Seconds until that share of the units is done."""
        left, seconds = share * sum(units for units, _ in self.parts), START
        for units, each in self.parts:
            seconds += min(units, left) * each
            left = max(0.0, left - units)
        return seconds


def expected(recipe: Recipe, nodes: list[Node]) -> dict[str, Expected]:
    """By name, the nodes that take time and whose size is known."""
    vae = BF16_UNITS if cpu_has_bf16() else 1.0
    found = {node.name: _node(recipe, node, vae) for node in nodes}
    return {name: value for name, value in found.items() if value}


def _node(recipe: Recipe, node: Node, vae: float) -> Expected | None:
    if node.stage == "train_vae":
        return Expected(tuple((phase.steps, vae * _phase(phase)) for phase in recipe.vae.train.phases))
    if node.stage in ("sample_footage", "curate_shard", "encode"):
        return _data(recipe, node.stage, vae)
    from mugv.cli.plan_cost import generated_clips, last_stage, node_cost

    flops = node_cost(recipe, node).flops
    if not flops:
        return None
    height, width = last_stage(recipe).size
    decoded = generated_clips(recipe, node.stage) * last_stage(recipe).frames * height * width * PIXEL_DECODED
    return Expected(((1, flops / DIT_FLOPS + _steps(recipe, node) * DIT_STEP + decoded),))


def _steps(recipe: Recipe, node: Node) -> int:
    if node.stage == "pretrain":
        return recipe.pretrain[node.index].steps
    if node.stage == "align" and recipe.align:
        return recipe.align.rounds[node.index].steps
    return recipe.sft.steps if node.stage == "sft" and recipe.sft else 0


def _phase(phase: VAEPhase) -> float:
    return phase.batch * phase.size**2 * VAE_PIXEL[phase.parts]


def _data(recipe: Recipe, stage: str, vae: float) -> Expected | None:
    """Of the sample footage, whose shots are known; None for a user's videos."""
    if recipe.data.videos is not None:
        return None
    sample = recipe.data.sample
    frames = sample.shots * sum(sample.shot_frames) / 2
    if stage == "sample_footage":
        return Expected(((1, frames * FRAME_WRITTEN),))
    if stage == "curate_shard":
        return Expected(((1, frames * FRAME_CURATED / recipe.data.shards),))
    pixels = sum(height * width for height, width in recipe.encode.sizes)
    return Expected(((1, sample.shots * recipe.curation.clip.frames * pixels * vae * PIXEL_ENCODED),))


@dataclass(frozen=True)
class Estimate:
    """Of a whole run, from what has been done of it."""

    total: float
    """Seconds from its start to its end."""
    left: float
    factor: float
    """Seconds that the work took so far over those of the reference."""


def estimate(
    plan: Mapping[str, Expected], stages: list[dict[str, Any]], progress: Mapping[str, dict[str, Any]], began: float, now: float
) -> Estimate | None:
    """None until there is enough work to measure. Stages found in the store take no time. A resumed stage measures nothing: what it had
    done before a kill took no time now."""
    spent, reference, left = 0.0, 0.0, 0.0
    seen = {stage["node"]: stage for stage in stages}
    for name, node in plan.items():
        stage = seen.get(name)
        if stage is None:
            left += node.seconds
        elif stage["status"] == "running":
            done = progress.get(name)
            share = done["done"] / max(1, done["total"]) if done and done.get("time", 0) >= stage["started"] else 0.0
            left += node.seconds - node.until(share)
            if done and share and not stage.get("resumed"):
                spent, reference = spent + done["time"] - stage["started"], reference + node.until(share)
        elif stage["status"] == "ran":
            spent, reference = spent + stage["ended"] - stage["started"], reference + node.seconds
    if spent < MEASURED_SECONDS or not reference:
        return None
    factor = spent / reference
    return Estimate(now - began + left * factor, left * factor, factor)


def minutes(seconds: float) -> str:
    """`40 s`, `7 min`, `1 h 5 min`; whole minutes from two on."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    whole = math.ceil(seconds / 60)
    return f"{whole} min" if whole < 60 else f"{whole // 60} h {whole % 60} min"
