"""Stage `align-<j>`: one preference round, KTO or DPO, with the flow loss on real clips beside it (paper 4.2.3)."""

from __future__ import annotations

import logging

from mugv.stages.base import StageContext
from mugv.stages.dit_common import describe, final_metrics, previous_model, publish_curve, run_training
from mugv.store.carried import local_path

logger = logging.getLogger(__name__)


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: latents, candidates, previous. Output: a DiT checkpoint."""
    return run_training(ctx, train, __name__)


def train(ctx: StageContext) -> dict[str, float]:
    """Runs on every rank. A round without anything to learn from passes the weights on unchanged, and says so."""
    from mugv.dataset.latentset import LatentSet
    from mugv.draws import seed_of
    from mugv.training.flow_data import FlowData, stage_ratio
    from mugv.training.loop import fit
    from mugv.training.model_io import save_model
    from mugv.training.preferences import PreferenceData
    from mugv.training.tasks import PreferenceTask

    recipe, align = ctx.recipe, ctx.recipe.align
    assert align is not None
    round_, stage = align.rounds[ctx.index], recipe.sft or recipe.pretrain[-1]
    latents = LatentSet.open(ctx.inputs["latents"])
    model, previous = previous_model(ctx)
    ratio = stage_ratio(stage.flow, stage.size, 1 + stage.frames // 8)
    labels = local_path(align.labels) if align.labels else None
    preferences = PreferenceData(ctx.inputs["candidates"], ratio, recipe.curation.clip.fps, labels)
    description = describe(ctx, latents, stage, previous["width_divisor"])
    if not preferences.usable(round_.method):
        logger.warning("%s: the labels hold nothing for %s; the weights pass through unchanged", ctx.node, round_.method.upper())
        save_model(model, ctx.out, description)
        return {"steps": 0}
    real = FlowData(latents, latents.clips("train"), stage.size, stage.frames, stage.flow, stage.mask)
    task = PreferenceTask(model, preferences, real, round_, recipe.parallel, seed_of(recipe.dit_seed, ctx.node))
    fit(task, ctx.work / "train", round_.steps, round_.save_every, ctx.progress, asynchronous=recipe.parallel.async_save)
    save_model(task.result, ctx.out, description)
    publish_curve(ctx.work / "train", ctx.out)
    return final_metrics(ctx.work / "train")
