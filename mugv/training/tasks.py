"""The DiT's tasks for mugv.training.loop.fit: flow matching (pretraining, SFT) and preference rounds (KTO, DPO)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mugv.dit.model import MugDiT
from mugv.recipe.schema import AlignRound, Parallel, PretrainStage, TrainStage
from mugv.training import process_groups
from mugv.training.engine import Engine, frozen_copy
from mugv.training.flow_data import FlowData
from mugv.training.model_io import load_model_weights, save_sharded
from mugv.training.objectives import FlowBatch, clip_losses, dpo_loss, kto_loss
from mugv.training.preferences import PreferenceData
from mugv.training.schedule import learning_rate


class FlowTask:
    """Flow matching on real clips: an image and a video micro-batch a step, a running average of the weights if asked for."""

    def __init__(self, model: MugDiT, data: FlowData, stage: TrainStage, layout: Parallel, seed: int) -> None:
        self.engine = Engine(model, stage.optimizer, layout)
        self.data, self.stage, self.seed = data, stage, seed
        self.rank, self.world = process_groups.data_rank()
        self.average = frozen_copy(model) if stage.average_decay else None

    @property
    def result(self) -> MugDiT:
        """The weights that later stages start from."""
        return self.average or self.engine.model

    def train_step(self, step: int) -> dict[str, float]:
        rate = learning_rate(self.stage.optimizer, step, self.stage.steps)
        metrics = self.engine.step(self._micro_batches(step), self._loss, rate)
        self._update_average(step)
        return metrics

    def _images(self, step: int) -> int:
        """Single-frame samples of this step, a multiple of the data-parallel ranks."""
        if not isinstance(self.stage, PretrainStage):
            return 0
        first, last = self.stage.image_fraction
        share = first + (last - first) * step / max(1, self.stage.steps - 1)
        return round(self.stage.batch * share / self.world) * self.world

    def _micro_batches(self, step: int) -> list[tuple[FlowBatch, float]]:
        """(batch, weight): weights are shares of the step's clips, images times their loss weight."""
        images = self._images(step)
        videos = self.stage.batch - images
        out = []
        for count, is_image, weight in ((videos, False, 1.0), (images, True, self.stage.flow.image_loss_weight)):
            if count:
                batch = self.data.batch(step, count, self.seed, self.rank, self.world, images=is_image)
                out.append((batch, weight * count / self.stage.batch))
        return out

    @staticmethod
    def _loss(model: MugDiT, item: tuple[FlowBatch, float]) -> tuple[Tensor, dict[str, Tensor]]:
        batch, weight = item
        loss = clip_losses(model, batch).mean()
        kind = "image_flow_loss" if batch.latent.shape[2] == 1 else "flow_loss"
        return loss * weight, {kind: loss.detach()}

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        if self.average is None:
            return
        decay = min(self.stage.average_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.engine.model.parameters()), 1 - decay)

    def save(self, folder: Path) -> None:
        self.engine.save(folder)
        if self.average is not None:
            save_sharded({"model": self.average.sharded_state_dict()}, folder / "average" / "model")

    def load(self, folder: Path) -> None:
        self.engine.load(folder)
        if self.average is not None:
            load_model_weights(self.average, folder / "average")


class PreferenceTask:
    """One KTO or DPO round against the frozen weights that the round started from, with the flow loss on real clips beside it."""

    def __init__(self, model: MugDiT, preferences: PreferenceData, real: FlowData, round_: AlignRound, layout: Parallel, seed: int) -> None:
        self.reference = frozen_copy(model)
        self.engine = Engine(model, round_.optimizer, layout)
        self.preferences, self.real, self.round, self.seed = preferences, real, round_, seed
        self.rank, self.world = process_groups.data_rank()

    @property
    def result(self) -> MugDiT:
        return self.engine.model

    def train_step(self, step: int) -> dict[str, float]:
        rate = learning_rate(self.round.optimizer, step, self.round.steps)
        batch, passed = self.preferences.batch(self.round.method, step, self.round.batch, self.seed, self.rank, self.world)
        real = self.real.batch(step, self.round.batch, self.seed, self.rank, self.world)
        return self.engine.step([(batch, passed), (real, None)], self._loss, rate)

    def _loss(self, model: MugDiT, item: tuple[FlowBatch, Tensor | None]) -> tuple[Tensor, dict[str, Tensor]]:
        batch, passed = item
        losses = clip_losses(model, batch)
        if passed is None:
            return losses.mean() * self.round.sft_weight, {"flow_loss": losses.detach().mean()}
        with torch.no_grad():
            delta_reference = clip_losses(self.reference, batch)
        delta = losses - delta_reference
        if self.round.method == "kto":
            loss = kto_loss(delta, passed, self.round.beta)
        else:
            loss = dpo_loss(delta[passed], delta[~passed], self.round.beta)
        margin = delta[~passed].mean() - delta[passed].mean()
        return loss, {f"{self.round.method}_loss": loss.detach(), "reward_margin": self.round.beta * margin.detach()}

    def save(self, folder: Path) -> None:
        self.engine.save(folder)

    def load(self, folder: Path) -> None:
        self.engine.load(folder)
