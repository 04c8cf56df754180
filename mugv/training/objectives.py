"""What the DiT minimises: flow matching on real clips, DPO and KTO on its own (paper 4.2.3, facts 6.5).

Legend: B clips, C latent channels, T latent frames, H W latent rows and columns, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mugv.flow.path import add_noise, flow_loss

Network = Callable[..., Any]
Clips = Tensor | tuple[Tensor, ...]
"""Clips of one size side by side, or packed clips of any sizes, each without the batch axis."""


@dataclass(frozen=True)
class FlowBatch:
    """Clean latents [B, C, T, H, W] and everything drawn for them. noise like latent; timestep, fps [B]; noised bool [B, T]; text
    [B, L, width]. names [B], where known. Packed: latent, noise and noised are tuples of one clip each."""

    latent: Clips
    noise: Clips
    timestep: Tensor
    noised: Clips
    text: Tensor
    text_mask: Tensor
    fps: Tensor
    names: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> FlowBatch:
        moved: dict[str, Any] = {name: _each(value, lambda x: x.to(device)) for name, value in self._tensors().items()}
        return replace(self, **moved)

    def __len__(self) -> int:
        return len(self.timestep)

    def select(self, clips: slice | Tensor) -> FlowBatch:
        """Some of the clips; by index only when batched."""
        chosen = torch.arange(len(self))[clips].tolist()
        names = tuple(self.names[i] for i in chosen) if self.names else ()
        return FlowBatch(**{name: value[clips] for name, value in self._tensors().items()}, names=names)

    def _tensors(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "names"}

    @property
    def is_image(self) -> Tensor:
        """bool [B]: clips of one latent frame."""
        if isinstance(self.latent, Tensor):
            return torch.full((len(self),), self.latent.shape[2] == 1)
        return torch.tensor([clip.shape[1] == 1 for clip in self.latent])


def pack(batches: Sequence[FlowBatch]) -> FlowBatch:
    """The clips of several batches, of any sizes, as one packed sequence."""
    longest = max(b.text.shape[1] for b in batches)
    padded = [longest - b.text.shape[1] for b in batches]
    return FlowBatch(
        latent=tuple(clip for b in batches for clip in b.latent),
        noise=tuple(clip for b in batches for clip in b.noise),
        timestep=torch.cat([b.timestep for b in batches]),
        noised=tuple(clip for b in batches for clip in b.noised),
        text=torch.cat([F.pad(b.text, (0, 0, 0, n)) for b, n in zip(batches, padded, strict=True)]),
        text_mask=torch.cat([F.pad(b.text_mask, (0, n)) for b, n in zip(batches, padded, strict=True)]),
        fps=torch.cat([b.fps for b in batches]),
        names=tuple(name for b in batches for name in b.names),
    )


def _each(value: Clips, function: Callable[[Tensor], Tensor]) -> Clips:
    return function(value) if isinstance(value, Tensor) else tuple(map(function, value))


def predict(model: Network, batch: FlowBatch) -> Any:
    """The network's velocity for the batch's noised latents (or the message of a pipeline rank that is not the last)."""
    if isinstance(batch.latent, Tensor):
        x_t: Any = add_noise(batch.latent, batch.noise, batch.timestep, batch.noised)  # type: ignore[arg-type]
    else:
        parts = zip(batch.latent, batch.noise, batch.timestep[:, None], batch.noised, strict=True)
        x_t = [add_noise(x[None], noise[None], t, noised[None])[0] for x, noise, t, noised in parts]
    return model(x_t, batch.timestep, batch.text, batch.text_mask, batch.fps, batch.noised)


def losses(velocity: Any, batch: FlowBatch) -> Tensor:
    """Flow loss of each clip [B]."""
    if isinstance(batch.latent, Tensor):
        return flow_loss(velocity, batch.latent, batch.noise, batch.noised)  # type: ignore[arg-type]
    parts = zip(velocity, batch.latent, batch.noise, batch.noised, strict=True)
    return torch.cat([flow_loss(v[None], x[None], noise[None], noised[None]) for v, x, noise, noised in parts])


def clip_losses(model: Network, batch: FlowBatch) -> Tensor:
    """Flow loss of each clip [B], by a network that is whole on this rank."""
    return losses(predict(model, batch), batch)


def dpo_loss(winner: Tensor, loser: Tensor, beta: float) -> Tensor:
    """-log sigma(-(beta / 2) (delta_w - delta_l)); delta = loss of the model - loss of the reference, each [B]."""
    return -F.logsigmoid(-(beta / 2) * (winner - loser)).mean()


def kto_loss(delta: Tensor, passed: Tensor, beta: float, reference: Tensor | None = None) -> Tensor:
    """KTO with reward r = -beta delta against a reference point; passes and failures weigh the same in sum.

    delta [B], passed bool [B]. reference: the mean reward of the whole batch, of which these may be a part; unset: of these clips.
    """
    reward = -beta * delta
    point = (reward.mean() if reference is None else reference).detach().clamp(min=0)
    value = torch.where(passed, 1 - torch.sigmoid(reward - point), 1 - torch.sigmoid(point - reward))
    n_pass, n_fail = passed.sum().clamp(min=1), (~passed).sum().clamp(min=1)
    weight = torch.where(passed, 0.5 / n_pass, 0.5 / n_fail)
    return (weight * value).sum()
