"""3D rotary position embedding in fp32 (facts 4.4): adjacent channel pairs turn by row, column and frame index.

Legend: S tokens of a clip with start and end token (T*H*W + 2), K pairs of a head (head_dim / 2).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def rope_table(frames: int, height: int, width: int, head_dim: int, device: str = "cpu") -> Tensor:
    """Rotations as cos and sin, float32 [2, S, K].

    Pairs [0, K/3) turn by row, [K/3, 2K/3) by column, the rest by time, all with frequencies 10000^(-i / (K/3)). The start token
    has index (0, 0, 0), latent frame t has time t + 1, the end token (height - 1, width - 1, frames + 1). Sizes in patches.
    """
    axis = head_dim // 6
    frequency = 10000.0 ** (-torch.arange(axis, dtype=torch.float64) / axis)
    t, y, x = torch.meshgrid(torch.arange(1, frames + 1), torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([y.flatten(), x.flatten(), t.flatten()], 1)
    start, end = torch.zeros(1, 3, dtype=grid.dtype), torch.tensor([[height - 1, width - 1, frames + 1]])
    position_S3 = torch.cat([start, grid, end]).double()
    angle_SK = (position_S3[:, :, None] * frequency).flatten(1)
    return torch.stack([angle_SK.cos(), angle_SK.sin()]).float().to(device)
