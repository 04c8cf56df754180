"""Stage `sft`: the best clips, a decaying learning rate, and an average of the stage's own checkpoints (paper 4.2.3)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mugv.stages.base import StageContext
from mugv.stages.dit_common import (
    attach_adapters,
    describe,
    final_metrics,
    merge_adapters,
    previous_model,
    publish_curve,
    run_training,
)

if TYPE_CHECKING:
    from mugv.dit.model import MugDiT
    from mugv.training.tasks import FlowTask


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: latents, clips, previous. Output: a DiT checkpoint."""
    return run_training(ctx, train, __name__)


def train(ctx: StageContext) -> dict[str, float]:
    """Runs on every rank."""
    from mugv.dataset.latentset import LatentSet
    from mugv.draws import seed_of
    from mugv.training.checkpoint_writer import checkpoints
    from mugv.training.flow_data import FlowData
    from mugv.training.loop import fit
    from mugv.training.model_io import save_model
    from mugv.training.tasks import FlowTask

    recipe, stage = ctx.recipe, ctx.recipe.sft
    assert stage is not None
    latents = LatentSet.open(ctx.inputs["latents"])
    ranked = sorted(latents.clips("train"), key=lambda r: (-r.score, r.clip_id))
    best = sorted(ranked[: max(1, round(len(ranked) * stage.best_fraction))], key=lambda r: r.clip_id)
    chunks, previous = previous_model(ctx)
    seed = seed_of(recipe.dit_seed, ctx.node)
    attach_adapters(chunks, stage, seed)
    task = FlowTask(chunks, FlowData(latents, best, stage.size, stage.frames, stage.flow, stage.mask), stage, recipe.parallel, seed)
    kept = frozenset(round(stage.steps * (i + 1) / stage.checkpoints) for i in range(stage.checkpoints))
    fit(task, ctx.work / "train", stage.steps, stage.save_every, ctx.progress, milestones=kept, asynchronous=recipe.parallel.async_save)
    result = average_checkpoints(task, [path for step, path in checkpoints(ctx.work / "train") if step in kept], stage.decay)
    merge_adapters(ctx, result, stage)
    save_model(result, ctx.out, describe(ctx, latents, stage, previous["width_divisor"]))
    publish_curve(ctx.work / "train", ctx.out)
    return {"clips": len(best), "checkpoints_averaged": len(kept), **final_metrics(ctx.work / "train")}


def average_checkpoints(task: FlowTask, paths: list[Path], decay: float) -> list[MugDiT]:
    """The network sum_i w_i theta_i, w_i proportional to decay^(N - i), over these checkpoints, oldest first (facts 6.4), in fp32.

    theta_i is what the stage would have handed on then: the exact weights, or with `average_decay` their running average. Of a network
    with adapters, theta_i are the adapters' factors: the base stays as it is to the bit.
    """
    import torch

    from mugv.training.masters import all_parameters

    weights = [decay ** (len(paths) - i) for i in range(1, len(paths) + 1)]
    total: list[torch.Tensor] = []
    for weight, path in zip(weights, paths, strict=True):
        task.load(path)
        result = task.result
        everything = all_parameters(result)
        parameters = [p for p in everything if p.requires_grad] or everything
        total = total or [torch.zeros_like(p) for p in parameters]
        torch._foreach_add_(total, [p.detach() for p in parameters], alpha=weight / sum(weights))
    with torch.no_grad():
        torch._foreach_copy_(parameters, total)
    return result
