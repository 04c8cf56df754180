"""Preference data: labelled clips of the model's own, as batches for KTO and DPO."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mugv.dataset.latentset import pad_text
from mugv.dataset.sampler import clips_of_step
from mugv.draws import generator_for
from mugv.flow.path import sample_timesteps
from mugv.training.labels import read_labels
from mugv.training.objectives import FlowBatch


class PreferenceData:
    """Latents, texts and labels of the candidates; batches are pure functions of (seed, step, rank)."""

    def __init__(self, folder: Path, ratio: float, fps: float, labels: Path | None = None) -> None:
        tensors = load_file(folder / "candidates.safetensors")
        described = json.loads((folder / "candidates.json").read_text())
        names = described["clips"]
        self.latents = {name: tensors["latents"][i] for i, name in enumerate(names)}
        offsets = tensors["offsets"]
        self.texts = {name: tensors["embeddings"][offsets[i] : offsets[i + 1]] for i, name in enumerate(names)}
        self.labels = read_labels(labels or folder / "labels.jsonl", dict(zip(names, described["prompts"], strict=True)))
        self.ratio, self.fps = ratio, fps

    def usable(self, method: str) -> bool:
        """Whether there is anything to learn from: both passes and failures, or one pair."""
        return bool(self.labels.passed and self.labels.failed) if method == "kto" else bool(self.labels.pairs)

    def batch(self, method: str, step: int, batch: int, seed: int, rank: int, world: int) -> tuple[FlowBatch, Tensor]:
        """(batch, passed bool [B]): half passes, half failures (KTO), or winners then losers with equal t and noise (DPO)."""
        half = max(world, batch // 2)
        generator = generator_for(seed, step, rank, 7)
        if method == "dpo":
            pairs = [self.labels.pairs[i] for i in clips_of_step(len(self.labels.pairs), half, step, seed, rank, world)]
            good, bad = [w for w, _ in pairs], [loser for _, loser in pairs]
        else:
            good = [self.labels.passed[i] for i in clips_of_step(len(self.labels.passed), half, step, seed, rank, world)]
            bad = [self.labels.failed[i] for i in clips_of_step(len(self.labels.failed), half, step, seed, rank, world, 1)]
        n = len(good)
        latent = torch.stack([self.latents[name] for name in good + bad])
        timestep = sample_timesteps(n, self.ratio, generator).repeat(2)
        noise = torch.randn(latent[:n].shape, generator=generator).repeat(2, 1, 1, 1, 1)
        text, mask = pad_text([self.texts[name] for name in good + bad])
        noised = torch.ones(2 * n, latent.shape[2], dtype=torch.bool)
        fps = torch.full((2 * n,), self.fps)
        return FlowBatch(latent, noise, timestep, noised, text, mask, fps, tuple(good + bad)), torch.arange(2 * n) < n
