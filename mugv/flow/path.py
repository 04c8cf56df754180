"""Rectified flow: the straight path between data and noise, its target, and how timesteps are drawn. Facts 5.1 to 5.3.

Legend: B clips, C latent channels, T latent frames, H W latent rows and columns. Timesteps run from 0 (data) to 1000 (noise), fp32.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

STEPS = 1000.0
Distribution = Literal["logit-normal", "uniform"]


def shift_ratio(height: int, width: int, latent_frames: int, scale: float = 1.0) -> float:
    """r = sqrt(H W / 512^2) sqrt(F) scale; height and width in pixels, F in latent frames (1 for images)."""
    return math.sqrt(height * width / 512**2) * math.sqrt(latent_frames) * scale


def shift_timestep(u: Tensor, ratio: float) -> Tensor:
    """t = 1000 r u / (1 + (r - 1) u) for u in [0, 1]; any shape."""
    return STEPS * ratio * u / (1 + (ratio - 1) * u)


def sample_timesteps(
    batch: int, ratio: float, generator: torch.Generator, distribution: Distribution = "logit-normal", stratified: bool = True
) -> Tensor:
    """Shifted timesteps fp32 [B] of u ~ logit-normal(0, 1) (published) or uniform.

    Stratified: one draw in each of B equal slices of probability, in random order.
    """
    uniform = torch.rand(batch, generator=generator, dtype=torch.float64)
    if stratified:
        uniform = (torch.randperm(batch, generator=generator) + uniform) / batch
    if distribution == "logit-normal":
        normal = math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-9, 1 - 1e-9))
        uniform = torch.sigmoid(normal)
    return shift_timestep(uniform, ratio).float()


def add_noise(data_BCTHW: Tensor, noise_BCTHW: Tensor, timestep_B: Tensor, noised_BT: Tensor) -> Tensor:
    """x_t = (1 - t) x0 + t noise in fp32; given frames (noised False) keep their data. [B, C, T, H, W]."""
    t = (timestep_B[:, None] / STEPS * noised_BT)[:, None, :, None, None].float()
    return (1 - t) * data_BCTHW.float() + t * noise_BCTHW.float()


def flow_loss(velocity_BCTHW: Tensor, data_BCTHW: Tensor, noise_BCTHW: Tensor, noised_BT: Tensor) -> Tensor:
    """Mean squared error of each clip [B] against x0 - noise over channels, rows, columns and its noised frames."""
    error_BT = (velocity_BCTHW - (data_BCTHW - noise_BCTHW).float()).square().mean(dim=(1, 3, 4))
    weight = noised_BT.float()
    return (error_BT * weight).sum(1) / weight.sum(1).clamp(min=1)
