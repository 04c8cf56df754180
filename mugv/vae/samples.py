"""Training samples of the VideoVAE: windows of frames from clips held in memory as bytes. Random only by the given generator.

Legend: N clips, T frames of a clip, K latents of a window, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mugv.errors import UserError
from mugv.vae.model import CHUNK


def window_indices(frames: int, latents: int, count: int, generator: torch.Generator) -> Tensor:
    """Frame numbers [count, 8 latents] of windows over a clip.

    Half of the windows lie as the encoder cuts a clip of 1 + 8k frames (the first chunk is frame 0, eight times), the other
    half start at any frame. UserError when the clip is too short for the window.
    """
    length = CHUNK * latents
    still = frames % CHUNK == 1
    padded = frames + (CHUNK - 1 if still else 0)
    if length > padded:
        raise UserError(f"vae.train windows of {latents} latents need clips of at least {length} frames, got {frames}")
    aligned = torch.randint((padded - length) // CHUNK + 1, (count,), generator=generator) * CHUNK - (padded - frames)
    free = torch.randint(max(1, frames - length + 1), (count,), generator=generator)
    take_free = (torch.rand(count, generator=generator) < 0.5) & (frames >= length)
    start = torch.where(take_free, free, aligned)
    return (start[:, None] + torch.arange(length)).clamp_min(0)


def to_video(frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [B, T, H, W, 3] -> [B, 3, T, H, W] in [-1, 1]."""
    return frames.permute(0, 4, 1, 2, 3).to(dtype) / 127.5 - 1.0


def to_images(frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> [N, 3, H, W] in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1.0
