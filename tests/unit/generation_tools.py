"""A generator of small, untrained networks, for tests of generation."""

from __future__ import annotations

from pathlib import Path

import torch

from mugv.generation import Generator
from mugv.recipe.models import DiTModel, TextEncoder, VAEModel
from mugv.recipe.schema import Flow, Parallel
from mugv.training.engine import build_model
from mugv.training.model_io import save_model
from mugv.vae import VideoVAE, save_vae

DIT = DiTModel(layers=1, hidden=24, heads=2, latent_channels=4)
TEXT = TextEncoder(width=16, max_tokens=8)
VAE = VAEModel(
    latent_channels=4,
    base_channels=8,
    channel_multipliers=(1, 1, 1, 1),
    blocks_per_level=1,
    temporal_channels=(8, 8, 8, 8),
    temporal_blocks=1,
    groups=4,
    decode_window=2,
)


def description(size: tuple[int, int] = (32, 48), frames: int = 25, fps: float = 12.0) -> dict:
    """config.json of a checkpoint."""
    return {
        "model": DIT.model_dump(),
        "width_divisor": 1,
        "text": TEXT.model_dump(),
        "latent_norm": {"shift": [0.1] * 4, "scale": [0.5] * 4},
        "size": list(size),
        "frames": frames,
        "fps": fps,
        "flow": Flow().model_dump(),
    }


def make_generator(**changes) -> Generator:
    torch.manual_seed(0)
    return Generator(build_model(DIT, TEXT.width, 1, Parallel(), 0), description(**changes), VideoVAE(VAE))


def write_checkpoint(folder: Path, **changes) -> tuple[Path, Path]:
    """Folders of a DiT checkpoint and of its VAE."""
    torch.manual_seed(0)
    dit, vae = folder / "dit", folder / "vae"
    dit.mkdir(parents=True)
    save_model(build_model(DIT, TEXT.width, 1, Parallel(), 0), dit, description(**changes))
    save_vae(VideoVAE(VAE), vae)
    return dit, vae
