"""Stage `train_vae`: clips -> a trained VideoVAE folder, measured on held-out clips."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from mugv.stages.base import StageContext
from mugv.stages.dit_common import is_main, publish_curve, run_training
from mugv.stages.placement import world_of
from mugv.store.carried import local_path

if TYPE_CHECKING:
    import torch

    from mugv.dataset.clipset import ClipRow, ClipSet
    from mugv.vae import VideoVAE

INITIAL = 18
"""Purpose of the draw of the first weights."""
MEASURED_CLIPS = 144
"""Held-out clips of the metrics."""


def run(ctx: StageContext) -> dict[str, float]:
    """Input: clips. Output: model.safetensors, config.json, metrics.json, metrics.jsonl."""
    return run_training(ctx, train, __name__)


def train(ctx: StageContext) -> dict[str, float]:
    """Runs on every rank."""
    import json

    import torch

    from mugv.dataset.clipset import ClipSet
    from mugv.draws import generator_for
    from mugv.precision import here, machine, resolve
    from mugv.training import process_groups
    from mugv.training.loop import fit
    from mugv.vae import VideoVAE, count_parameters, save_vae
    from mugv.vae.training import VAETask

    world = world_of(ctx.recipe, "train_vae")
    if world > 1:
        process_groups.start(world)
    settings = ctx.recipe.vae.train
    clips = ClipSet.open(ctx.inputs["clips"])
    skipped: dict[str, float] = {}
    if ctx.recipe.weights.vae:
        vae = _given(ctx).to(here())
    else:
        torch.set_rng_state(generator_for(ctx.recipe.seed, 0, 0, INITIAL).get_state())
        vae = VideoVAE(ctx.recipe.vae.model).to(here())
        rows = clips.rows("train")
        footage = lru_cache(maxsize=1)(lambda size: _decode(clips, rows, size))
        task = VAETask(vae, settings, footage, ctx.recipe.seed, [row.clip_id for row in rows])
        fit(task, ctx.work / "train", task.steps, settings.save_every, ctx.progress)
        publish_curve(ctx.work / "train", ctx.out)
        skipped = {"skipped_steps": float(task.guard.skipped)} if task.guard.skipped else {}
    metrics = {**skipped, "parameters": float(count_parameters(ctx.recipe.vae.model)), **_measure(ctx, vae, clips)}
    if is_main():
        save_vae(vae, ctx.out)
        trained = {"precision": resolve(settings.precision, here(), autocast=True), "machine": machine()}
        (ctx.out / "metrics.json").write_text(json.dumps({**metrics, **trained}, indent=2) + "\n")
    return metrics


def _given(ctx: StageContext) -> VideoVAE:
    """The VAE of weights.vae, which must have the recipe's size."""
    from mugv.errors import UserError
    from mugv.vae import load_vae

    folder, model = local_path(str(ctx.recipe.weights.vae)), ctx.recipe.vae.model
    vae = load_vae(folder)
    other = {k: v for k, v in vae.config.model_dump().items() if v != model.model_dump()[k] and not k.startswith("decode_")}
    if other:
        raise UserError(f"weights.vae {folder}: its size differs from vae.model of the recipe; set there {other}")
    return vae


def _decode(clips: ClipSet, rows: list[ClipRow], size: int) -> torch.Tensor:
    """uint8 [N, T, size, size, 3] of the given clips, decoded once."""
    import numpy as np
    import torch

    from mugv.errors import UserError
    from mugv.media.resize import resize_crop

    if not rows:
        raise UserError("the clip set holds no clip to train on: see the reasons in its manifest.parquet")
    return torch.from_numpy(np.stack([resize_crop(clips.frames(row.clip_id), size, size) for row in rows]))


def _measure(ctx: StageContext, vae: VideoVAE, clips: ClipSet) -> dict[str, float]:
    """PSNR, SSIM and latent statistics of a round trip of held-out clips at the last phase's size, without phases at the clips' own."""
    from mugv.vae.reconstruct import measure

    rows = (clips.rows("validation") or clips.rows("train"))[:MEASURED_CLIPS]
    phases = ctx.recipe.vae.train.phases
    size = phases[-1].size if phases else min(min(r.height, r.width) for r in rows) // 16 * 16
    frames = _decode(clips, rows, size)
    return {"vae_measured_clips": float(len(rows)), **measure(vae, frames, ctx.recipe.encode.batch)}
