"""Euler sampler with classifier-free guidance (facts 5.4). Pure tensor maths: the network is a function."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mugv.flow.path import STEPS, shift_timestep

Velocity = Callable[[Tensor, float], tuple[Tensor, Tensor | None]]
"""velocity(x [B, C, T, H, W], t) -> (conditional, unconditional or None), each [B, C, T, H, W]."""


def timetable(steps: int, ratio: float) -> list[float]:
    """The steps + 1 shifted timesteps from 1000 to 0."""
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return [float(t) for t in shift_timestep(u, ratio)]


def guide(conditional: Tensor, unconditional: Tensor | None, scale: float) -> Tensor:
    """v_u + scale (v_c - v_u); the conditional velocity alone where there is no unconditional one."""
    return conditional if unconditional is None else unconditional + scale * (conditional - unconditional)


@torch.no_grad()
def sample_euler(
    velocity: Velocity,
    noise_BCTHW: Tensor,
    steps: int,
    guidance: float,
    ratio: float,
    given_BCTHW: Tensor | None = None,
    noised_BT: Tensor | None = None,
) -> Tensor:
    """Latents from noise, [B, C, T, H, W] fp32. Frames where `noised_BT` is False are taken from `given_BCTHW` at every step."""
    keep = None if noised_BT is None else noised_BT[:, None, :, None, None]
    x = noise_BCTHW.float()
    times = timetable(steps, ratio)
    for now, following in pairwise(times):
        if keep is not None and given_BCTHW is not None:
            x = torch.where(keep, x, given_BCTHW)
        x = x + guide(*velocity(x, now), guidance) * ((now - following) / STEPS)
    return x if keep is None or given_BCTHW is None else torch.where(keep, x, given_BCTHW)
