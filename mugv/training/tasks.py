"""The DiT's tasks for mugv.training.loop.fit: flow matching (pretraining, SFT) and preference rounds (KTO, DPO)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mugv.dit.model import MugDiT
from mugv.dit.sharding import as_chunks, sharded_state
from mugv.recipe.schema import AlignRound, Parallel, PretrainStage, TrainStage
from mugv.training import process_groups
from mugv.training.engine import CLIPS, ClipLosses, Engine, run_schedule, total
from mugv.training.flops import Clip, step_flops, utilisation
from mugv.training.flow_data import FlowData
from mugv.training.masters import empty_copy, frozen_copy
from mugv.training.model_io import Save, load_model_weights, save_sharded
from mugv.training.objectives import FlowBatch, dpo_loss, kto_loss, losses, pack, predict
from mugv.training.preferences import PreferenceData
from mugv.training.schedule import learning_rate

Weighted = tuple[FlowBatch, Tensor]
"""Clips and the weight of each clip's loss [B]."""


class FlowTask:
    """Flow matching on real clips, images and videos in one step; a running average of the weights if asked for."""

    def __init__(self, model: MugDiT | Sequence[MugDiT], data: FlowData, stage: TrainStage, layout: Parallel, seed: int) -> None:
        self.engine = Engine(model, stage.optimizer, layout)
        self.data, self.stage, self.layout, self.seed = data, stage, layout, seed
        self.rank, self.world = process_groups.data_rank()
        # Of this rank's shares of the exact weights: an update of 1e-4 of a weight is below bf16's resolution.
        self.average = [value.clone() for value in self.engine.masters.values()] if stage.average_decay else None

    @property
    def result(self) -> list[MugDiT]:
        """The weights that later stages start from, in fp32; every rank asks for them."""
        return self.engine.network() if self.average is None else self.engine.masters.network(self.average)

    def train_step(self, step: int) -> dict[str, float]:
        rate = learning_rate(self.stage.optimizer, step, self.stage.steps)
        micro_batches = self._micro_batches(step)
        began = time.perf_counter()
        metrics = self.engine.step(micro_batches, self, rate)
        metrics |= self._speed([batch for batch, _ in micro_batches], time.perf_counter() - began)
        self._update_average(step)
        return metrics

    def _speed(self, batches: list[FlowBatch], seconds: float) -> dict[str, float]:
        """TFLOP/s of a rank without credit for recomputation; on a GPU also MFU and HFU against an H100's 989 TFLOP/s."""
        config = self.engine.config
        clips = [clip for batch in batches for clip in clips_of(batch, config.patch)]
        # Every data-parallel rank has as many clips; their sizes are the same, their texts nearly.
        forward = step_flops(config.model, config.text_width, clips) * self.world
        found = {"model_tflops": forward.training / seconds / self.layout.world / 1e12}
        if self.engine.device.type == "cuda":
            found |= utilisation(forward, seconds, self.layout.world, self.layout.recompute)._asdict()
        return found

    def _images(self, step: int) -> int:
        """Single-frame samples of this step, a multiple of the data-parallel ranks."""
        if not isinstance(self.stage, PretrainStage):
            return 0
        first, last = self.stage.image_fraction
        share = first + (last - first) * step / max(1, self.stage.steps - 1)
        return round(self.stage.batch * share / self.world) * self.world

    def _micro_batches(self, step: int) -> list[Weighted]:
        """Every clip weighs 1 / (clips of this rank), images times their loss weight."""
        images = self._images(step)
        out: list[Weighted] = []
        for count, is_image, weight in ((self.stage.batch - images, False, 1.0), (images, True, self.stage.flow.image_loss_weight)):
            if count:
                batch = self.data.batch(step, count, self.seed, self.rank, self.world, images=is_image).to(self.engine.device)
                weights = torch.full((len(batch),), weight * self.world / self.stage.batch, device=self.engine.device)
                out += _split(batch, weights, self.layout.micro_batch)
        return _packed(out, self.layout.micro_batch) if self.layout.pack else out

    def forward(self, model: MugDiT, micro_batch: Weighted) -> Any:
        return predict(model, micro_batch[0])

    def loss(self, velocity: Any, micro_batch: Weighted) -> tuple[Tensor, dict[str, Any]]:
        batch, weights = micro_batch
        each, is_image = losses(velocity, batch), batch.is_image
        kinds = {"flow_loss": each[~is_image], "image_flow_loss": each[is_image]}
        metrics = {name: total(part) for name, part in kinds.items() if len(part)}
        return (each * weights).sum(), {**metrics, CLIPS: ClipLosses(batch.names, each.detach())}

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        if self.average is None:
            return
        decay = min(self.stage.average_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, self.engine.masters.values(), 1 - decay)

    def save(self, folder: Path, asynchronous: bool = False) -> list[Save]:
        saves = self.engine.save(folder, asynchronous)
        if self.average is not None:
            network = self.engine.masters.network(self.average)
            saves += save_sharded({"model": sharded_state(network)}, folder / "average" / "model", asynchronous)
        return saves

    def load(self, folder: Path) -> None:
        self.engine.load(folder)
        if self.average is not None:
            network = [empty_copy(chunk, torch.float32) for chunk in self.engine.chunks]
            load_model_weights(network, folder / "average")
            self.average = self.engine.masters.shares_of(network)


def clips_of(batch: FlowBatch, patch: int) -> list[Clip]:
    """Tokens of each clip and of its text."""
    latents = batch.latent if not isinstance(batch.latent, Tensor) else list(batch.latent)
    texts = batch.text_mask.sum(1).tolist()
    return [Clip(x.shape[1] * (x.shape[2] // patch) * (x.shape[3] // patch) + 2, words) for x, words in zip(latents, texts, strict=True)]


def _split(batch: FlowBatch, weights: Tensor, size: int | None) -> list[Weighted]:
    """Micro-batches of at most `size` clips."""
    size = size or len(batch)
    return [(batch.select(slice(i, i + size)), weights[i : i + size]) for i in range(0, len(batch), size)]


def _packed(items: list[Weighted], size: int | None) -> list[Weighted]:
    """The same clips, videos and images together, as packed sequences of at most `size` clips, long and short ones spread evenly."""
    clips = [(batch.select(slice(i, i + 1)), weights[i : i + 1]) for batch, weights in items for i in range(len(batch))]
    count = -(-len(clips) // (size or len(clips)))
    return [(pack([b for b, _ in clips[i::count]]), torch.cat([w for _, w in clips[i::count]])) for i in range(count)]


class PreferenceTask:
    """One KTO or DPO round against the frozen weights that the round started from, with the flow loss on real clips beside it."""

    def __init__(
        self,
        model: MugDiT | Sequence[MugDiT],
        preferences: PreferenceData,
        real: FlowData,
        round_: AlignRound,
        layout: Parallel,
        seed: int,
    ) -> None:
        self.reference = [frozen_copy(chunk, chunk.config.params_dtype) for chunk in as_chunks(model)]
        self.engine = Engine(model, round_.optimizer, layout)
        self.preferences, self.real, self.round, self.seed = preferences, real, round_, seed
        self.micro_batch = layout.micro_batch
        self.rank, self.world = process_groups.data_rank()

    @property
    def result(self) -> list[MugDiT]:
        """The weights that later stages start from, in fp32; every rank asks for them."""
        return self.engine.network()

    def train_step(self, step: int) -> dict[str, float]:
        rate = learning_rate(self.round.optimizer, step, self.round.steps)
        batch, passed = self.preferences.batch(self.round.method, step, self.round.batch, self.seed, self.rank, self.world)
        real = self.real.batch(step, self.round.batch, self.seed, self.rank, self.world)
        batch, real = batch.to(self.engine.device), real.to(self.engine.device)
        parts = self._pairs(batch, passed)
        reference = _losses_of(self.reference, parts)
        point = self._reference_point(parts, reference) if self.round.method == "kto" else None
        own = [_Compared(part, mine, found, point, len(part) / len(batch)) for (part, mine), found in zip(parts, reference, strict=True)]
        size = self.micro_batch or len(real)
        kept = [real.select(slice(i, i + size)) for i in range(0, len(real), size)]
        return self.engine.step([*own, *(_Compared(part, None, None, None, len(part) / len(real)) for part in kept)], self, rate)

    def _pairs(self, batch: FlowBatch, passed: Tensor) -> list[tuple[FlowBatch, Tensor]]:
        """Micro-batches that hold as many good clips as bad ones."""
        half = len(batch) // 2
        size = max(1, self.micro_batch // 2) if self.micro_batch else half
        chosen = [torch.cat([torch.arange(i, min(i + size, half)) + offset for offset in (0, half)]) for i in range(0, half, size)]
        return [(batch.select(clips), passed[clips]) for clips in chosen]

    def _reference_point(self, parts: list[tuple[FlowBatch, Tensor]], reference: list[Tensor | None]) -> Tensor | None:
        """KTO's: the mean reward of all clips of the step, over micro-batches and data-parallel ranks, where velocities come out."""
        if len(parts) == 1 and self.world == 1:
            return None  # the loss sees them all
        self.engine.sync_parameters()
        own = _losses_of(self.engine.chunks, parts)
        deltas = [mine - theirs for mine, theirs in zip(own, reference, strict=True) if mine is not None and theirs is not None]
        if not deltas:
            return None
        sums = total(torch.cat(deltas))
        if self.world > 1:
            dist.all_reduce(sums, group=process_groups.data_group())
        return -self.round.beta * sums[0] / sums[1]

    def forward(self, model: MugDiT, micro_batch: _Compared) -> Any:
        return predict(model, micro_batch.clips)

    def loss(self, velocity: Any, micro_batch: _Compared) -> tuple[Tensor, dict[str, Any]]:
        each, passed = losses(velocity, micro_batch.clips), micro_batch.passed
        clips = {CLIPS: ClipLosses(micro_batch.clips.names, each.detach())}
        if passed is None or micro_batch.reference is None:
            return each.mean() * self.round.sft_weight * micro_batch.weight, {"flow_loss": total(each), **clips}
        delta = each - micro_batch.reference
        if self.round.method == "kto":
            loss = kto_loss(delta, passed, self.round.beta, micro_batch.point)
        else:
            loss = dpo_loss(delta[passed], delta[~passed], self.round.beta)
        margin = self.round.beta * (delta[~passed].mean() - delta[passed].mean())
        pairs = {f"{self.round.method}_loss": loss, "reward_margin": margin}
        # Means over pairs, of which a micro-batch holds as many as passes.
        metrics = {name: total(value.expand(int(passed.sum()))) for name, value in pairs.items()}
        return loss * micro_batch.weight, {**metrics, **clips}

    def save(self, folder: Path, asynchronous: bool = False) -> list[Save]:
        return self.engine.save(folder, asynchronous)

    def load(self, folder: Path) -> None:
        self.engine.load(folder)


@dataclass(frozen=True)
class _Compared:
    """A micro-batch of a preference round: candidates with the reference's losses, or real clips (`passed` unset)."""

    clips: FlowBatch
    passed: Tensor | None
    reference: Tensor | None
    """The frozen network's loss of each clip, on the ranks where the velocity comes out; elsewhere unset."""
    point: Tensor | None
    """KTO's reference point of the whole batch; unset where this micro-batch is the whole batch."""
    weight: float


@torch.no_grad()
def _losses_of(chunks: Sequence[MugDiT], parts: list[tuple[FlowBatch, Tensor]]) -> list[Tensor | None]:
    """Loss of each clip of each micro-batch, on the ranks where the velocity comes out; elsewhere None."""
    objective = _Losses(len(parts))
    run_schedule(chunks, list(enumerate(parts)), objective, forward_only=True)
    return objective.found


class _Losses:
    """Objective that keeps each clip's loss."""

    def __init__(self, parts: int) -> None:
        self.found: list[Tensor | None] = [None] * parts

    def forward(self, model: MugDiT, micro_batch: tuple[int, tuple[FlowBatch, Tensor]]) -> Any:
        return predict(model, micro_batch[1][0])

    def loss(self, velocity: Any, micro_batch: tuple[int, tuple[FlowBatch, Tensor]]) -> tuple[Tensor, dict[str, Any]]:
        index, (clips, _) = micro_batch
        self.found[index] = losses(velocity, clips)
        return velocity.new_zeros(()), {}
