"""Text (and a first frame) to video from a DiT checkpoint and a VAE. Used by evaluation, alignment, the CLI and the registered model.

Legend: N prompts, B clips of one network call, C latent channels, T frames or latent frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mugv.dataset.latentset import LatentNorm, pad_text
from mugv.dit.model import MugDiT
from mugv.errors import UserError
from mugv.flow.sampler import Velocity, sample_flow
from mugv.media.resize import resize_crop
from mugv.recipe.models import TextEncoder
from mugv.recipe.schema import Flow, Sampler
from mugv.text import open_encoder
from mugv.training.flow_data import stage_ratio
from mugv.training.model_io import load_dit
from mugv.vae import VideoVAE, load_vae

Progress = Callable[[int, int, dict[str, float]], None]


class Generator:
    """Holds the networks; `generate` returns pixels."""

    def __init__(self, model: MugDiT, config: dict[str, Any], vae: VideoVAE) -> None:
        self.model, self.config, self.vae = model, config, vae.eval()
        self.norm = LatentNorm(tuple(config["latent_norm"]["shift"]), tuple(config["latent_norm"]["scale"]))
        self.encoder = open_encoder(TextEncoder(**config["text"]))
        self.flow = Flow(**config["flow"])
        self.size: tuple[int, int] = tuple(config["size"])
        self.frames: int = config["frames"]
        self.fps: float = config["fps"]

    @staticmethod
    def open(checkpoint: Path, vae: Path) -> Generator:
        model, config = load_dit(Path(checkpoint))
        return Generator(model, config, load_vae(Path(vae)))

    def generate(
        self,
        prompts: Sequence[str],
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        seeds: Sequence[int] = (0,),
        steps: int = 25,
        guidance: float = 4.0,
        first_frames: np.ndarray | None = None,
        batch: int = 48,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Clips uint8 [N, T, H, W, 3]. `seeds`: one for each prompt, or one for all; first_frames uint8 [N, h, w, 3] for I2V.

        size in pixels (default: the checkpoint's), frames 1 + 8k. Raises UserError for sizes and lengths the networks cannot do.
        """
        out = []
        seeds = list(seeds) * len(prompts) if len(seeds) == 1 else list(seeds)
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            first = None if first_frames is None else first_frames[part]
            latents = self.sample(prompts[part], seeds[part], size, frames, steps, guidance, first)
            out.append(self.decode(latents, first))
            if progress:
                progress(min(start + batch, len(prompts)), len(prompts), {})
        return np.concatenate(out)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        steps: int = 25,
        guidance: float = 4.0,
        first_frames: np.ndarray | None = None,
    ) -> Tensor:
        """Normalised latents [N, C, T, H/8, W/8]."""
        height, width = size or self.size
        frames = frames or self.frames
        self._check(height, width, frames, steps)
        shape = (len(prompts), self.model.config.latent_channels, 1 + frames // 8, height // 8, width // 8)
        noise = torch.stack([torch.randn(shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])
        noised = torch.ones(shape[0], shape[2], dtype=torch.bool)
        given = None
        if first_frames is not None:
            noised[:, 0] = False
            given = torch.zeros(shape)
            given[:, :, :1] = self.encode_frames(first_frames, (height, width))
        ratio = stage_ratio(self.flow, (height, width), shape[2])
        return sample_flow(self._velocity(prompts, noised, guidance), noise, Sampler(steps=steps, guidance=guidance), ratio, given, noised)

    @torch.no_grad()
    def encode_frames(self, frames: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Normalised latents [N, C, 1, H/8, W/8] of single pictures uint8 [N, h, w, 3]."""
        pixels = torch.from_numpy(np.stack([resize_crop(f[None], *size) for f in frames]))
        video = pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        return self.norm.normalise(self.vae.encode(video).mean)

    @torch.no_grad()
    def decode(self, latents: Tensor, first_frames: np.ndarray | None = None) -> np.ndarray:
        """uint8 [N, T, H, W, 3] of normalised latents; a given first frame replaces its reconstruction."""
        video = self.vae.decode_clip(self.norm.restore(latents)).clamp(-1, 1)
        pixels = ((video + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()
        if first_frames is not None:
            pixels[:, 0] = np.stack([resize_crop(f[None], *pixels.shape[2:4])[0] for f in first_frames])
        return pixels

    def _velocity(self, prompts: Sequence[str], noised_BT: Tensor, guidance: float) -> Velocity:
        """Both guidance branches in one network call; text is encoded once."""
        texts = [torch.from_numpy(t) for t in self.encoder.encode(list(prompts))]
        branches = 1 if guidance == 1.0 else 2
        if branches == 2:
            texts += [torch.from_numpy(self.encoder.encode_null())] * len(prompts)
        text, mask = pad_text(texts)
        noised = noised_BT.repeat(branches, 1)
        fps = torch.full((len(noised),), self.fps)

        def velocity(x: Tensor, t: float, guided: bool) -> tuple[Tensor, Tensor | None]:
            out = self.model(x.repeat(branches, 1, 1, 1, 1), torch.full((len(noised),), t), text, mask, fps, noised)
            return (out, None) if branches == 1 else tuple(out.chunk(2))  # type: ignore[return-value]

        return velocity

    @staticmethod
    def _check(height: int, width: int, frames: int, steps: int) -> None:
        if height % 16 or width % 16 or min(height, width) < 16:
            raise UserError(f"size {height}x{width}: height and width must be multiples of 16")
        if frames % 8 != 1:
            raise UserError(f"frames {frames}: must be 1 + 8k (9, 17, 25, ...)")
        if steps < 1:
            raise UserError(f"steps {steps}: must be at least 1")
