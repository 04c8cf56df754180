"""Which latent frames of a clip are given clean: the frame-mask sampler (facts 4.5). The kinds are Open-Sora's.

Legend: B clips, T latent frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

STILL_KINDS = ("image_head", "image_tail", "image_head_tail")
"""One given frame at each end that the name says. They need no more randomness than the choice of the kind."""
DRAWN_KINDS = ("random", "interpolate", "image_random", "quarter_random", "quarter_head", "quarter_tail", "quarter_head_tail")
"""`random`: each frame with a chance of 0.1 to 0.9; `interpolate`: every second frame; `image_random`: one frame anywhere;
`quarter_*`: a run of 1 to T / 4 frames (at least 1) at the place that the name says."""
KINDS = (*STILL_KINDS, *DRAWN_KINDS)


def sample_noised(batch: int, frames: int, probabilities: dict[str, float], generator: torch.Generator) -> Tensor:
    """bool [B, T]: True where a latent frame is noised. `probabilities` by kind; the rest of the clips give no frame.

    Clips of one latent frame are never masked, and at least one frame of a clip stays noised.
    """
    noised = torch.ones(batch, frames, dtype=torch.bool)
    draw = torch.rand(batch, generator=generator)
    frame_draw = torch.rand(batch, frames, generator=generator)
    if frames == 1:
        return noised
    size_draw = torch.zeros(batch)
    if any(probabilities.get(kind) for kind in DRAWN_KINDS):
        size_draw = torch.rand(batch, generator=generator)
    lower = 0.0
    for kind in KINDS:
        upper = lower + probabilities.get(kind, 0.0)
        chosen = (draw >= lower) & (draw < upper)
        noised[chosen] = ~_given(kind, frame_draw[chosen], size_draw[chosen, None])
        lower = upper
    noised[~noised.any(1), -1] = True
    return noised


def _given(kind: str, frame_draw: Tensor, size_draw: Tensor) -> Tensor:
    """bool [B, T] of given frames; the draws are uniform over [0, 1): frame_draw [B, T], size_draw [B, 1]."""
    frames = frame_draw.shape[1]
    if kind == "random":
        return frame_draw < 0.1 + 0.8 * size_draw
    place, first_draw = torch.arange(frames), frame_draw[:, :1]
    if kind == "interpolate":
        return place % 2 == (first_draw < 0.5).long()
    longest = max(1, frames // 4) if kind.startswith("quarter") else 1
    size = 1 + (size_draw * longest).long()
    if kind.endswith("random"):
        start = (first_draw * (frames - size + 1)).long()
        return (place >= start) & (place < start + size)
    head = (place < size) & ("head" in kind)
    tail = (place >= frames - size) & ("tail" in kind)
    return head | tail
