"""Classifier-free guidance: extrapolation, the dynamic clamp and the rescale of the released sampler (facts 5.4).

Legend: B clips, C latent channels, T latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mugv.recipe.schema import Sampler


def guides_at(timestep: float, sampler: Sampler) -> bool:
    """Whether the step at `timestep` (0 to 1000) needs the unconditional branch."""
    low, high = sampler.guidance_interval
    return sampler.guidance != 1.0 and low <= timestep <= high


def guide(conditional: Tensor, unconditional: Tensor | None, timestep: float, sampler: Sampler) -> Tensor:
    """v_u + scale (v_c - v_u), clamped and rescaled as the sampler says; v_c alone where there is no v_u. [B, C, T, H, W]."""
    if unconditional is None:
        return conditional
    difference = conditional - unconditional
    for channel, threshold in sampler.dynamic_clamp.items():
        difference[:, channel] = _clamp(difference[:, channel], timestep, threshold)
    velocity = unconditional + sampler.guidance * difference
    return rescale(velocity, conditional, sampler.guidance_rescale) if sampler.guidance_rescale else velocity


def rescale(velocity: Tensor, conditional: Tensor, share: float) -> Tensor:
    """share v std(v_c) / std(v) + (1 - share) v, standard deviations over each clip."""
    over = tuple(range(1, velocity.ndim))
    factor = conditional.std(over, keepdim=True) / velocity.std(over, keepdim=True)
    return velocity * (share * factor + 1 - share)


def _clamp(difference_BTHW: Tensor, timestep: float, threshold: float) -> Tensor:
    """Clamp one channel to +-q, q a quantile of its absolute values in a clip against the threshold.

    t > 950: the larger of the 0.98 quantile and the threshold; t > 400: the smaller; else the smaller with the 0.95 quantile.
    """
    quantile = 0.98 if timestep > 400 else 0.95
    limit_B = torch.quantile(difference_BTHW.abs().flatten(1), quantile, dim=1)
    limit_B = limit_B.clamp(min=threshold) if timestep > 950 else limit_B.clamp(max=threshold)
    limit = limit_B[:, None, None, None]
    return torch.maximum(torch.minimum(difference_BTHW, limit), -limit)
