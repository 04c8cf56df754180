"""What the DiT minimises: flow matching on real clips, DPO and KTO on its own (paper 4.2.3, facts 6.5).

Legend: B clips, C latent channels, T latent frames, H W latent rows and columns, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from mugv.flow.path import add_noise, flow_loss

Network = Callable[..., Tensor]


@dataclass(frozen=True)
class FlowBatch:
    """Clean latents and everything drawn for them. noise like latent; timestep, fps [B]; noised bool [B, T]; text [B, L, width]."""

    latent: Tensor
    noise: Tensor
    timestep: Tensor
    noised: Tensor
    text: Tensor
    text_mask: Tensor
    fps: Tensor

    def to(self, device: str) -> FlowBatch:
        return FlowBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def clip_losses(model: Network, batch: FlowBatch) -> Tensor:
    """Flow loss of each clip [B]."""
    x_t = add_noise(batch.latent, batch.noise, batch.timestep, batch.noised)
    velocity = model(x_t, batch.timestep, batch.text, batch.text_mask, batch.fps, batch.noised)
    return flow_loss(velocity, batch.latent, batch.noise, batch.noised)


def dpo_loss(winner: Tensor, loser: Tensor, beta: float) -> Tensor:
    """-log sigma(-(beta / 2) (delta_w - delta_l)); delta = loss of the model - loss of the reference, each [B]."""
    return -F.logsigmoid(-(beta / 2) * (winner - loser)).mean()


def kto_loss(delta: Tensor, passed: Tensor, beta: float) -> Tensor:
    """KTO with reward r = -beta delta against the batch's mean reward; passes and failures weigh the same in sum.

    delta [B], passed bool [B].
    """
    reward = -beta * delta
    reference = reward.mean().detach().clamp(min=0)
    value = torch.where(passed, 1 - torch.sigmoid(reward - reference), 1 - torch.sigmoid(reference - reward))
    n_pass, n_fail = passed.sum().clamp(min=1), (~passed).sum().clamp(min=1)
    weight = torch.where(passed, 0.5 / n_pass, 0.5 / n_fail)
    return (weight * value).sum()
