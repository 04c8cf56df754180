"""From noise to latents along the learned velocity (facts 5.4). Pure tensor maths: the network is a function.

    euler  the published sampler
    ab2    Adams-Bashforth with variable steps: second order with one network call a step

Legend: B clips, C latent channels, T latent frames, H W latent rows and columns. Timesteps run from 1000 (noise) to 0 (data).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mugv.flow.guidance import guide, guides_at
from mugv.flow.path import STEPS, add_noise, shift_timestep
from mugv.recipe.schema import Sampler

Velocity = Callable[[Tensor, float, bool], tuple[Tensor, Tensor | None]]
"""velocity(x [B, C, T, H, W], t, guided) -> (conditional, unconditional or None), each [B, C, T, H, W]. Only where `guided` is True
is the unconditional one used, so elsewhere it need not be computed."""


def timetable(steps: int, ratio: float) -> list[float]:
    """The steps + 1 timesteps of u = 1 - i / steps, shifted: from 1000 to 0."""
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return [min(STEPS, float(t)) for t in shift_timestep(u, ratio)]


@torch.no_grad()
def sample_flow(
    velocity: Velocity,
    noise_BCTHW: Tensor,
    sampler: Sampler,
    ratio: float,
    given_BCTHW: Tensor | None = None,
    noised_BT: Tensor | None = None,
    start_step: int = 0,
) -> Tensor:
    """Latents fp32 [B, C, T, H, W]. Frames where `noised_BT` is False are taken from `given_BCTHW` at every step.

    start_step (the released reverse_start_step): the first steps are left out and the rest begins from `given` noised to the timestep
    of that step, so the result keeps its layout; at `sampler.steps` it is `given` itself.
    """
    times = timetable(sampler.steps, ratio)[start_step:]
    x = noise_BCTHW.float()
    if noised_BT is None:
        noised_BT = torch.ones(x.shape[0], x.shape[2], dtype=torch.bool, device=x.device)
    given = x if given_BCTHW is None else given_BCTHW.float()
    if start_step:
        x = add_noise(given, x, torch.full((len(x),), times[0], device=x.device), noised_BT)
    keep = noised_BT[:, None, :, None, None]
    x = torch.where(keep, x, given)
    step = _Stepper(second_order=sampler.method == "ab2")
    for now, following in pairwise(times):
        guided = guides_at(now, sampler)
        v = guide(*velocity(x, now, guided), now, sampler)
        x = torch.where(keep, x + step(v, (now - following) / STEPS, guided), given)
    return x


class _Stepper:
    """The change of x over one step: length times velocity, second order from the step before where there is one like it."""

    def __init__(self, second_order: bool) -> None:
        self.second_order = second_order
        self.before: tuple[Tensor, float, bool] | None = None

    def __call__(self, v: Tensor, length: float, guided: bool) -> Tensor:
        slope, before = v, self.before
        # The velocity jumps where guidance starts or ends: what came before says nothing about the slope after it.
        if self.second_order and before is not None and before[2] == guided:
            slope = v + length / (2 * before[1]) * (v - before[0])
        self.before = (v, length, guided)
        return length * slope
