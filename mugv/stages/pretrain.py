"""Stage `pretrain-<k>`: one curriculum stage of the DiT (paper 4.2.2), after a width expansion where the recipe asks for one."""

from __future__ import annotations

from mugv.stages.base import StageContext
from mugv.stages.dit_common import describe, final_metrics, previous_model, publish_curve, run_training


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: latents, and previous for all but the first. Output: a DiT checkpoint."""
    return run_training(ctx, train, __name__)


def train(ctx: StageContext) -> dict[str, float]:
    """Runs on every rank."""
    from mugv.dataset.latentset import LatentSet
    from mugv.training.flops import dit_parameters, stage_divisor
    from mugv.training.flow_data import FlowData
    from mugv.training.loop import fit
    from mugv.training.model_io import save_model
    from mugv.training.tasks import FlowTask

    recipe, stage = ctx.recipe, ctx.recipe.pretrain[ctx.index]
    latents = LatentSet.open(ctx.inputs["latents"])
    data = FlowData(latents, latents.clips("train"), stage.size, stage.frames, stage.flow, stage.mask)
    divisor = stage_divisor(recipe, ctx.index)
    task = FlowTask(_start(ctx, divisor), data, stage, recipe.parallel, recipe.seed + 1000 * (ctx.index + 1))
    fit(task, ctx.work / "train", stage.steps, stage.save_every, ctx.progress, asynchronous=recipe.parallel.async_save)
    save_model(task.result, ctx.out, describe(ctx, latents, stage, divisor))
    publish_curve(ctx.work / "train", ctx.out)
    return {"parameters": dit_parameters(recipe.dit, recipe.text.width, divisor), **final_metrics(ctx.work / "train")}


def _start(ctx: StageContext, divisor: int):  # type: ignore[no-untyped-def]
    """A new network, the previous one, or the previous one widened."""
    from mugv.dit.expand import expand
    from mugv.training.engine import build_chunks

    recipe, stage = ctx.recipe, ctx.recipe.pretrain[ctx.index]
    if ctx.index == 0:
        return build_chunks(recipe.dit, recipe.text.width, divisor, recipe.parallel, recipe.seed)
    narrow, _ = previous_model(ctx)
    if stage.expand is None:
        return narrow
    wide = build_chunks(recipe.dit, recipe.text.width, divisor, recipe.parallel, recipe.seed)
    weights = {name: parameter for chunk in narrow for name, parameter in chunk.named_parameters()}
    for chunk in wide:
        expand(weights, chunk, stage.expand.factor, stage.expand.noise_db, recipe.seed)
    return wide
