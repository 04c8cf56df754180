"""Which latent frames of a clip are given clean: the frame-mask sampler (facts 4.5)."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("image_head", "image_tail", "image_head_tail", "random")


def sample_noised(batch: int, frames: int, probabilities: dict[str, float], generator: torch.Generator) -> Tensor:
    """bool [B, T]: True where a latent frame is noised. `probabilities` by kind; the rest of the clips give no frame.

    Clips of one latent frame are never masked, and at least one frame of a clip stays noised.
    """
    noised = torch.ones(batch, frames, dtype=torch.bool)
    draw = torch.rand(batch, generator=generator)
    frame_draw = torch.rand(batch, frames, generator=generator)
    if frames == 1:
        return noised
    lower = 0.0
    for kind in KINDS:
        upper = lower + probabilities.get(kind, 0.0)
        chosen = (draw >= lower) & (draw < upper)
        noised[chosen] &= _pattern(kind, frame_draw[chosen])
        lower = upper
    noised[~noised.any(1), -1] = True
    return noised


def _pattern(kind: str, frame_draw: Tensor) -> Tensor:
    noised = torch.ones_like(frame_draw, dtype=torch.bool)
    if kind == "random":
        return frame_draw > 0.25
    if "head" in kind:
        noised[:, 0] = False
    if "tail" in kind and (kind != "image_head_tail" or noised.shape[1] > 2):
        noised[:, -1] = False
    return noised
