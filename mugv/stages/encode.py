"""Stage `encode`: clips and VAE -> LatentSet. Each clip once a size; statistics measured on the training split at the largest size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mugv.errors import UserError
from mugv.stages.base import StageContext
from mugv.store.carried import local_path

if TYPE_CHECKING:
    import numpy as np
    import torch

    from mugv.dataset.clipset import ClipRow, ClipSet
    from mugv.dataset.latentset import LatentNorm
    from mugv.vae import VideoVAE

    Moments = tuple[torch.Tensor, torch.Tensor]


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: clips, vae. Output: a LatentSet folder."""
    from mugv.dataset.clipset import ClipSet
    from mugv.dataset.latentset import LatentRow, write_latent_set
    from mugv.precision import here
    from mugv.text import open_encoder
    from mugv.vae import load_vae

    clips, vae = ClipSet.open(ctx.inputs["clips"]), load_vae(ctx.inputs["vae"]).eval().to(here())
    rows = clips.rows()
    if not any(r.split == "train" for r in rows):
        raise UserError(
            f"clip set: no clip to train on; of its {len(rows)} clips none is in the split `train`: see the reasons in its manifest"
        )
    sizes = sorted(ctx.recipe.encode.sizes)
    encoded = {size: _encode_all(ctx, clips, rows, vae, size, i) for i, size in enumerate(sizes)}
    train = [i for i, r in enumerate(rows) if r.split == "train"]
    norm = _given_norm(ctx) or _measure(*(part[train] for part in encoded[sizes[-1]]))
    latents = {size: norm.normalise(mean) for size, (mean, _) in encoded.items()}
    encoder = open_encoder(ctx.recipe.text)
    texts = encoder.encode([r.caption for r in rows])
    check_finite([r.clip_id for r in rows], latents, texts)
    write_latent_set(
        ctx.out,
        [LatentRow(r.clip_id, r.split, r.caption, r.score, r.fps, i) for i, r in enumerate(rows)],
        latents,
        texts,
        encoder.encode_null(),
        norm,
        {"frames": ctx.recipe.curation.clip.frames, "text": ctx.recipe.text.model_dump(), "vae": ctx.refs["vae"].to_dict()},
    )
    return {"clips": len(rows), "train_clips": len(train), "latent_std_smallest": min(norm.scale), "latent_std_largest": max(norm.scale)}


def check_finite(clips: list[str], latents: dict[tuple[int, int], torch.Tensor], texts: list[np.ndarray]) -> None:
    """UserError naming the clips whose latents [C, T, h, w] or text [L, width] hold a value that is not finite: one would stop training."""
    import numpy as np

    for size, tensor in latents.items():
        bad = [clip for clip, finite in zip(clips, tensor.isfinite().flatten(1).all(1).tolist(), strict=True) if not finite]
        if bad:
            raise UserError(
                f"latents at {size[0]}x{size[1]} are not finite: {_listed(bad, len(clips))}; is the VAE trained and its statistics right?"
            )
    bad = [clip for clip, text in zip(clips, texts, strict=True) if not np.isfinite(text).all()]
    if bad:
        raise UserError(f"the text encoder gives values that are not finite: {_listed(bad, len(clips))}")


def _listed(bad: list[str], count: int) -> str:
    return f"{len(bad)} of {count} clips, {', '.join(bad[:8])}{', ...' if len(bad) > 8 else ''}"


def _given_norm(ctx: StageContext) -> LatentNorm | None:
    """How the latents of weights.dit were normalised; None for a new network."""
    if ctx.recipe.weights.dit is None:
        return None
    from mugv.dataset.latentset import LatentNorm
    from mugv.training.model_io import read_config

    found = read_config(local_path(ctx.recipe.weights.dit))["latent_norm"]
    return LatentNorm(tuple(found["shift"]), tuple(found["scale"]))


def _encode_all(ctx: StageContext, clips: ClipSet, rows: list[ClipRow], vae: VideoVAE, size: tuple[int, int], done: int) -> Moments:
    """Posterior means and variances, each [N, C, T, h, w] in fp32 on the CPU, of all rows at a size."""
    import numpy as np
    import torch

    from mugv.media.resize import resize_crop
    from mugv.precision import resolve
    from mugv.vae.samples import to_video

    means, variances, batch, device = [], [], ctx.recipe.encode.batch, vae.shift.device
    bf16 = resolve(ctx.recipe.vae.train.precision, device.type, autocast=True) == "bf16"
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        pixels = np.stack([resize_crop(clips.frames(r.clip_id), *size) for r in part])
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            posterior = vae.encode(to_video(torch.from_numpy(pixels).to(device)))
        means.append(posterior.mean.float().cpu())
        variances.append(posterior.logvar.float().exp().cpu())
        ctx.progress(done * len(rows) + start + len(part), len(rows) * len(ctx.recipe.encode.sizes), {})
    return torch.cat(means), torch.cat(variances)


def _measure(mean_NCTHW: torch.Tensor, variance_NCTHW: torch.Tensor) -> LatentNorm:
    """Mean and standard deviation of each channel of the posterior, its own variance included: a channel that carries nothing has
    posterior variance near 1 and stays near 0 instead of being blown up to unit noise."""
    from mugv.dataset.latentset import LatentNorm

    axes = (0, 2, 3, 4)
    total = mean_NCTHW.var(axes) + variance_NCTHW.mean(axes)
    return LatentNorm(tuple(mean_NCTHW.mean(axes).tolist()), tuple(total.sqrt().clamp(min=1e-6).tolist()))
