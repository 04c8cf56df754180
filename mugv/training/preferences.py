"""Preference data: labelled clips of the model's own, as batches for KTO and DPO.

labels.jsonl, one line an item, is what people (or the judge) fill in:
    {"kind": "absolute", "clip": "0003-1", "prompt": "...", "pass": true, "labeller": "judge"}
    {"kind": "pair", "winner": "0003-1", "loser": "0003-2", "prompt": "...", "labeller": "judge"}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mugv.dataset.latentset import pad_text
from mugv.dataset.sampler import clips_of_step
from mugv.errors import UserError
from mugv.flow.path import sample_timesteps
from mugv.training.flow_data import generator_for
from mugv.training.objectives import FlowBatch


@dataclass(frozen=True)
class Labels:
    """What the label file says, by clip name."""

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def read_labels(path: Path, clips: set[str]) -> Labels:
    """Parse and check a label file. Raises UserError naming the line."""
    passed: list[str] = []
    failed: list[str] = []
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path.name} line {number}"
        try:
            item = json.loads(line)
        except ValueError:
            raise UserError(f"{where}: not valid JSON") from None
        kind = item.get("kind") if isinstance(item, dict) else None
        keys = {"absolute": ("clip", "pass"), "pair": ("winner", "loser")}.get(str(kind))
        if keys is None or any(k not in item for k in keys):
            raise UserError(f'{where}: expected {{"kind": "absolute", "clip", "pass"}} or {{"kind": "pair", "winner", "loser"}}')
        unknown = [item[k] for k in keys if k != "pass" and item[k] not in clips]
        if unknown:
            raise UserError(f"{where}: clip {unknown[0]!r} is not among the {len(clips)} candidates")
        if kind == "pair":
            pairs.append((item["winner"], item["loser"]))
        else:
            (passed if item["pass"] else failed).append(item["clip"])
    return Labels(tuple(passed), tuple(failed), tuple(pairs))


class PreferenceData:
    """Latents, texts and labels of the candidates; batches are pure functions of (seed, step, rank)."""

    def __init__(self, folder: Path, ratio: float, fps: float, labels: Path | None = None) -> None:
        tensors = load_file(folder / "candidates.safetensors")
        names = json.loads((folder / "candidates.json").read_text())["clips"]
        self.latents = {name: tensors["latents"][i] for i, name in enumerate(names)}
        offsets = tensors["offsets"]
        self.texts = {name: tensors["embeddings"][offsets[i] : offsets[i + 1]] for i, name in enumerate(names)}
        self.labels = read_labels(labels or folder / "labels.jsonl", set(names))
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
            bad = [self.labels.failed[i] for i in clips_of_step(len(self.labels.failed), half, step, seed + 1, rank, world)]
        n = len(good)
        latent = torch.stack([self.latents[name] for name in good + bad])
        timestep = sample_timesteps(n, self.ratio, generator).repeat(2)
        noise = torch.randn(latent[:n].shape, generator=generator).repeat(2, 1, 1, 1, 1)
        text, mask = pad_text([self.texts[name] for name in good + bad])
        noised = torch.ones(2 * n, latent.shape[2], dtype=torch.bool)
        return FlowBatch(latent, noise, timestep, noised, text, mask, torch.full((2 * n,), self.fps)), torch.arange(2 * n) < n
