"""Conditioning of MUG-DiT: sinusoids of timestep and fps, the text projection, patches. Facts 4.3, steps 1 to 3 and 8."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoid(value_B: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of raw scalars [B] (timestep in 0..1000, fps) in fp32 -> [B, width]."""
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=value_B.device) / half)
    angle = value_B.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


class ScalarEmbedder(nn.Module):
    """MLP of a scalar's sinusoid: [B] -> [B, D]."""

    def __init__(self, frequency_width: int, width: int) -> None:
        super().__init__()
        self.frequency_width = frequency_width
        self.linear_1 = nn.Linear(frequency_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, value_B: Tensor) -> Tensor:
        wave = sinusoid(value_B, self.frequency_width).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(wave)))


class TextProjection(nn.Module):
    """LayerNorm, Linear, GELU (tanh), Linear, LayerNorm; norms without weights. [B, L, text width] -> [B, L, D]."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(text_width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, text_BLC: Tensor) -> Tensor:
        x = F.layer_norm(text_BLC.to(self.linear_1.weight.dtype), text_BLC.shape[-1:], eps=1e-6)
        x = self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))
        return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def patchify(latent_BCTHW: Tensor, patch: int) -> Tensor:
    """[B, C, T, H, W] -> [T * H/p * W/p, B, C * p * p]: tokens by frame, row, column; inner order that of Conv3d weights."""
    b, c, t, h, w = latent_BCTHW.shape
    x = latent_BCTHW.reshape(b, c, t, h // patch, patch, w // patch, patch)
    return x.permute(2, 3, 5, 0, 1, 4, 6).reshape(t * (h // patch) * (w // patch), b, c * patch * patch)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: int, channels: int) -> Tensor:
    """Inverse of patchify for outputs whose inner order is (row, column, channel): [t h w, B, p p C] of a grid in patches ->
    [B, channels, T, H, W]."""
    t, h, w = grid
    b = tokens.shape[1]
    x = tokens.reshape(t, h, w, b, patch, patch, channels)
    return x.permute(3, 6, 0, 1, 4, 2, 5).reshape(b, channels, t, h * patch, w * patch)
