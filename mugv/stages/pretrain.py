"""Stage `pretrain-<k>`: one curriculum stage of the DiT (paper 4.2.2), after a width expansion where the recipe asks for one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mugv.stages.base import StageContext
from mugv.stages.dit_common import (
    attach_adapters,
    describe,
    final_metrics,
    is_main,
    merge_adapters,
    previous_model,
    publish_curve,
    run_training,
)
from mugv.store.carried import local_path

if TYPE_CHECKING:
    from mugv.dit.model import MugDiT
    from mugv.recipe.schema import Expansion

logger = logging.getLogger(__name__)


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: latents, and previous for all but the first. Output: a DiT checkpoint."""
    return run_training(ctx, train, __name__)


def train(ctx: StageContext) -> dict[str, float]:
    """Runs on every rank."""
    from mugv.dataset.latentset import LatentSet
    from mugv.draws import seed_of
    from mugv.training.flops import dit_parameters, stage_divisor
    from mugv.training.flow_data import FlowData
    from mugv.training.loop import fit
    from mugv.training.model_io import save_model
    from mugv.training.tasks import FlowTask

    recipe, stage = ctx.recipe, ctx.recipe.pretrain[ctx.index]
    latents = LatentSet.open(ctx.inputs["latents"])
    data = FlowData(latents, latents.clips("train"), stage.size, stage.frames, stage.flow, stage.mask)
    divisor = stage_divisor(recipe, ctx.index)
    seed = seed_of(recipe.dit_seed, ctx.node)
    chunks = _start(ctx, divisor)
    attach_adapters(chunks, stage, seed)
    task = FlowTask(chunks, data, stage, recipe.parallel, seed)
    fit(task, ctx.work / "train", stage.steps, stage.save_every, ctx.progress, asynchronous=recipe.parallel.async_save)
    result = task.result
    merge_adapters(ctx, result, stage)
    save_model(result, ctx.out, describe(ctx, latents, stage, divisor))
    publish_curve(ctx.work / "train", ctx.out)
    return {"parameters": dit_parameters(recipe.dit, recipe.text.width, divisor), **final_metrics(ctx.work / "train")}


def _start(ctx: StageContext, divisor: int) -> list[MugDiT]:
    """A new network, the one of weights.dit, the previous one, or the previous one widened; in fp32."""
    import torch

    from mugv.training.engine import build_chunks, empty_chunks
    from mugv.training.model_io import load_model_weights, read_config

    recipe, stage = ctx.recipe, ctx.recipe.pretrain[ctx.index]
    if ctx.index and stage.expand is None:
        return previous_model(ctx)[0]
    size = recipe.dit, recipe.text.width, divisor, recipe.parallel
    if stage.expand is None and recipe.weights.dit:
        given = local_path(recipe.weights.dit)
        read_config(given)
        chunks = empty_chunks(*size, torch.float32)
        load_model_weights(chunks, given)
        return chunks
    chunks = build_chunks(*size, recipe.dit_seed, torch.float32)
    if stage.expand is not None:
        _expand(ctx, stage.expand, chunks)
    return chunks


def _expand(ctx: StageContext, settings: Expansion, wide: list[MugDiT]) -> None:
    """From checkpoint to network, a tensor at a time: each rank reads what it holds, whatever layout wrote it."""
    from mugv.dit.expand import expand
    from mugv.training.convert import open_distributed

    narrow = open_distributed(ctx.inputs["previous"] / "model")
    for chunk in wide:
        expand(narrow, chunk, settings, ctx.recipe.dit_seed)
    noise = "no noise" if settings.noise_db is None else f"{settings.noise} noise at {settings.noise_db:g} dB"
    if is_main():
        logger.warning("%s: widened by %d, %s; the optimizer starts anew, its state is not expanded", ctx.node, settings.factor, noise)
