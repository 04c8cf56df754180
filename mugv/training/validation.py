"""Flow loss on the validation split: fixed timesteps and noise, no guidance, no dropout; comparable between checkpoints."""

from __future__ import annotations

import torch

from mugv.dataset.latentset import LatentSet
from mugv.dit.model import MugDiT
from mugv.draws import generator_for
from mugv.flow.path import shift_timestep
from mugv.training.objectives import FlowBatch, clip_losses


@torch.no_grad()
def validation_losses(
    model: MugDiT, latents: LatentSet, size: tuple[int, int], ratio: float, clips: int, levels: int = 4
) -> dict[str, float]:
    """Clip -> mean over `levels` evenly spaced timesteps (before the shift by `ratio`), of the first `clips` validation clips."""
    rows = latents.clips("validation")[:clips]
    model.eval()
    losses = []
    for level in range(levels):
        clean = latents.latents(rows, size)
        text, mask = latents.text(list(rows))
        noise = torch.randn(clean.shape, generator=generator_for(0, level, 0, 3))
        timestep = shift_timestep(torch.full((len(rows),), (level + 0.5) / levels), ratio)
        noised = torch.ones(len(rows), clean.shape[2], dtype=torch.bool)
        fps = torch.tensor([r.fps for r in rows])
        batch = FlowBatch(clean, noise, timestep, noised, text, mask, fps)
        losses.append(clip_losses(model, batch.to(next(model.parameters()).device)))
    return {row.clip_id: float(loss) for row, loss in zip(rows, torch.stack(losses).mean(dim=0), strict=True)}
