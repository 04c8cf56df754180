"""A small latent set, candidates of a preference round, and tasks on a network of one layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from mugv.dataset.latentset import LatentNorm, LatentRow, LatentSet, write_latent_set
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import AlignRound, Flow, FrameMask, Optimizer, Parallel, PretrainStage
from mugv.training.engine import build_model
from mugv.training.flow_data import FlowData
from mugv.training.preferences import PreferenceData
from mugv.training.tasks import FlowTask, PreferenceTask

TINY = DiTModel(layers=1, hidden=24, heads=2, latent_channels=4)


def latent_set(folder: Path, spoilt: float | None = None, train: int = 10) -> LatentSet:
    """Twelve clips of latents [4, 3, 4, 4]; `spoilt`: one value of clip c3."""
    g = torch.Generator().manual_seed(0)
    rows = [LatentRow(f"c{i}", "train" if i < train else "validation", f"caption {i}", 0.1 * i, 12.0, i) for i in range(12)]
    texts = [np.random.default_rng(i).standard_normal((2 + i % 3, 8)).astype(np.float32) for i in range(12)]
    latents = torch.randn(12, 4, 3, 4, 4, generator=g)
    if spoilt is not None:
        latents[3, 0, 0, 0, 0] = spoilt
    write_latent_set(folder, rows, {(32, 32): latents}, texts, np.zeros((1, 8), np.float32), LatentNorm((0.0,) * 4, (1.0,) * 4), {})
    return LatentSet.open(folder)


def pretrain_stage(**changes) -> PretrainStage:
    values = {"name": "a", "steps": 6, "batch": 4, "size": (32, 32), "frames": 17, "save_every": 2}
    return PretrainStage(**{**values, "optimizer": Optimizer(learning_rate=1e-3), **changes})


def flow_task(latents: LatentSet, settings: PretrainStage, layout: Parallel = Parallel(), model: DiTModel = TINY) -> FlowTask:
    data = FlowData(latents, latents.clips("train"), settings.size, settings.frames, settings.flow, settings.mask)
    return FlowTask(build_model(model, 8, 1, layout, 0), data, settings, layout, seed=1)


def write_candidates(folder: Path, count: int = 16, spoilt: float | None = None) -> Path:
    """`count` candidates, two a prompt: the first passes and beats the second."""
    names = [f"{i // 2:04d}-{i % 2}" for i in range(count)]
    g = torch.Generator().manual_seed(3)
    latents = torch.randn(count, 4, 3, 4, 4, generator=g)
    if spoilt is not None:
        latents[3, 0, 0, 0, 0] = spoilt
    embeddings, offsets = torch.randn(2 * count, 8, generator=g), torch.arange(0, 2 * count + 2, 2)
    save_file({"latents": latents, "embeddings": embeddings, "offsets": offsets}, folder / "candidates.safetensors")
    prompts = [f"prompt {i // 2}" for i in range(count)]
    (folder / "candidates.json").write_text(json.dumps({"clips": names, "prompts": prompts}))
    lines: list[dict] = [{"kind": "absolute", "clip": name, "pass": name.endswith("0")} for name in names]
    lines += [{"kind": "pair", "winner": names[i], "loser": names[i + 1]} for i in range(0, count, 2)]
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def preference_task(
    latents: LatentSet, candidates: Path, layout: Parallel = Parallel(), model: DiTModel = TINY, **changes
) -> PreferenceTask:
    values = {"method": "kto", "steps": 10, "batch": 8, "beta": 200, "sft_weight": 0, "optimizer": Optimizer(learning_rate=1e-3)}
    real = FlowData(latents, latents.clips("train"), (32, 32), 17, Flow(), FrameMask())
    round_ = AlignRound(**{**values, **changes})
    return PreferenceTask(build_model(model, 8, 1, layout, 0), PreferenceData(candidates, 1.0, 12.0), real, round_, layout, 0)
