"""Checkpoints of the release's names and shapes, made here with random weights."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from mugv.dit.release import released_shapes
from mugv.recipe.models import DiTModel

SMALL = DiTModel(layers=2, hidden=48, heads=4, latent_channels=4)
TEXT = 16


def released_state(model: DiTModel = SMALL, text: int = TEXT, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=g).to(dtype) for name, shape in released_shapes(model, text).items()}


def write_release(path: Path, state: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(state, path)
    return path
