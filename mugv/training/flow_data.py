"""Batches for flow matching, each a pure function of (seed, step, data-parallel rank): the same after a resume, different on
every rank and in every epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from mugv.dataset.latentset import LatentRow, LatentSet
from mugv.dataset.sampler import clips_of_step
from mugv.draws import generator_for
from mugv.errors import UserError
from mugv.flow.masks import sample_noised
from mugv.flow.path import sample_timesteps, shift_ratio
from mugv.recipe.schema import Flow, FrameMask
from mugv.training.objectives import FlowBatch


def stage_ratio(flow: Flow, size: tuple[int, int], latent_frames: int) -> float:
    """The time shift of a stage: facts 5.2 times the recipe's scale, or 1 when the recipe turns it off."""
    return shift_ratio(*size, latent_frames, flow.shift_scale) if flow.time_shift else 1.0


class FlowData:
    """Draws the batches of one training stage from a LatentSet. Raises UserError where there is no clip to draw."""

    def __init__(self, latents: LatentSet, rows: list[LatentRow], size: tuple[int, int], frames: int, flow: Flow, mask: FrameMask) -> None:
        if not rows:
            raise UserError(
                f"latent set {latents.folder}: no clip to train on; of its {len(latents.rows)} clips none is in the split `train`"
            )
        self.latents, self.rows, self.size, self.flow = latents, rows, size, flow
        self.latent_frames = 1 + frames // 8
        self.mask = mask.model_dump()

    def batch(self, step: int, batch: int, seed: int, rank: int = 0, world: int = 1, images: bool = False) -> FlowBatch:
        """This rank's share of `batch` clips at `step`; `images`: their first latent frame alone."""
        purpose = 1 if images else 0
        rows = [self.rows[i] for i in clips_of_step(len(self.rows), batch, step, seed, rank, world, purpose)]
        generator = generator_for(seed, step, rank, purpose)
        frames = 1 if images else self.latent_frames
        latent = self.latents.latents(rows, self.size, frames)
        noised = sample_noised(len(rows), frames, self.mask, generator)
        # One draw for the whole step, of which each rank takes its share: with one clip a rank there would be no strata otherwise.
        shared = generator if world == 1 else generator_for(seed, step, 0, purpose + 32)
        timestep = sample_timesteps(len(rows) * world, stage_ratio(self.flow, self.size, frames), shared, self.flow.timestep)[rank::world]
        noise = torch.randn(latent.shape, generator=generator)
        text, text_mask = self.latents.text(self._dropped(rows, noised, generator))
        fps, names = torch.tensor([r.fps for r in rows]), tuple(r.clip_id for r in rows)
        return FlowBatch(latent, noise, timestep, noised, text, text_mask, fps, names)

    def _dropped(self, rows: list[LatentRow], noised: Tensor, generator: torch.Generator) -> list[LatentRow | None]:
        """Whole captions replaced by the null text, at the rate of the clip's task."""
        draw = torch.rand(len(rows), generator=generator)
        given = ~noised.all(1)
        rate = torch.where(given, self.flow.caption_dropout_i2v, self.flow.caption_dropout_t2v)
        return [None if drop else row for row, drop in zip(rows, (draw < rate).tolist(), strict=True)]
