"""What a stage of a run takes: parameters, tokens, FLOPs, memory, and seconds, measured here before or estimated from the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mugv.cli.expected import Expected
    from mugv.recipe import Recipe
    from mugv.recipe.schema import TrainStage
    from mugv.stages.graph import Node

GPU_FLOPS = 0.35 * 989e12
"""FLOP/s of one H100 at 35 % of its bf16 peak."""
GPU_MEMORY = 80e9


@dataclass(frozen=True)
class Cost:
    """What a stage is expected to take; 0 where it does not apply."""

    parameters: int = 0
    tokens: float = 0.0
    flops: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True)
class Seconds:
    """Of a stage, and where they come from; "": nothing is known."""

    seconds: float = 0.0
    source: Literal["measured", "estimated", ""] = ""


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


def measured_here(state: Path, recipe: Recipe) -> dict[str, float]:
    """Seconds that each node took when it last ran in this state folder, in a run of a recipe of this name."""
    from mugv.platform.records import all_runs

    found: dict[str, float] = {}
    for run in all_runs(state):
        if run.read().get("name") == recipe.name:
            for stage in run.stages():
                if stage["status"] == "ran" and {"started", "ended"} <= set(stage):
                    found.setdefault(stage["node"], stage["ended"] - stage["started"])
    return found


def expected_seconds(recipe: Recipe, node: Node, cost: Cost, measured: Mapping[str, float], on_a_cpu: Mapping[str, Expected]) -> Seconds:
    """Measured before, else estimated from the work."""
    if node.name in measured:
        return Seconds(measured[node.name], "measured")
    if recipe.resources.train.gpus:
        return Seconds(cost.flops / (GPU_FLOPS * recipe.parallel.world), "estimated") if cost.flops else Seconds()
    return Seconds(on_a_cpu[node.name].seconds, "estimated") if node.name in on_a_cpu else Seconds()
