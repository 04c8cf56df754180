"""Text and given frames to video from a DiT checkpoint and a VAE. Used by evaluation, alignment, the CLI and the registered model.

Legend: N prompts, B clips of one network call, C latent channels, T frames or latent frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mugv.dataset.latentset import LatentNorm, pad_text
from mugv.dit.model import MugDiT
from mugv.errors import UserError
from mugv.flow.sampler import Velocity, sample_flow
from mugv.generation.given import CHUNK, Given, check_frames, check_size, fitted
from mugv.recipe.models import TextEncoder
from mugv.recipe.schema import Flow, Sampler
from mugv.text import open_encoder
from mugv.training.flow_data import stage_ratio
from mugv.training.model_io import load_dit
from mugv.vae import VideoVAE, load_vae

Progress = Callable[[int, int, dict[str, float]], None]
PUBLISHED, TEXT_ALONE = Sampler(), Given()
PIXELS_A_BATCH = 1 << 21
"""Frames x height x width of the clips that are sampled at once, at most; one clip at least, 48 at most."""


class Generator:
    """Holds the networks; `generate` returns pixels. Networks run where the DiT's parameters are; results are on the CPU."""

    def __init__(self, model: MugDiT, config: dict[str, Any], vae: VideoVAE) -> None:
        self.device = next(model.parameters()).device
        self.model, self.config, self.vae = model.eval(), config, vae.eval().to(self.device)
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
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        seeds: Sequence[int] = (0,),
        sampler: Sampler = PUBLISHED,
        given: Given = TEXT_ALONE,
        negative: str | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Clips uint8 [N, T, H, W, 3]; T = 1: pictures. `seeds`: one for each prompt, or one for all.

        size in pixels and frames 1 + 8k (default: the checkpoint's). `negative`: what guidance leads away from, in place of the empty
        text that training drops captions to. `batch`: clips at once, which does not change them (default: by their size).
        Raises UserError for what the networks cannot do.
        """
        batch = batch or self.batch_size(size, frames)
        seeds = list(seeds) * len(prompts) if len(seeds) == 1 else list(seeds)
        made = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            some = given.part(part)
            latents = self.sample(prompts[part], seeds[part], size=size, frames=frames, sampler=sampler, given=some, negative=negative)
            made.append(self.decode(latents, some))
            if progress:
                progress(min(start + batch, len(prompts)), len(prompts), {})
        return np.concatenate(made)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        sampler: Sampler = PUBLISHED,
        given: Given = TEXT_ALONE,
        negative: str | None = None,
    ) -> Tensor:
        """Normalised latents [N, C, T, H/8, W/8]; arguments as in `generate`, one seed a prompt."""
        height, width = self.size if size is None else size
        frames = self.frames if frames is None else frames
        self.check(height, width, frames, sampler)
        given.check(len(prompts), frames, sampler.steps)
        if len(seeds) != len(prompts):
            raise UserError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for each, or one for all")
        shape = (len(prompts), self.model.config.latent_channels, 1 + frames // CHUNK, height // 8, width // 8)
        noise = torch.stack([torch.randn(shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        clean, noised = given.latents(shape, lambda pictures: self.encode(pictures, (height, width)))
        noise, noised = noise.to(self.device), noised.to(self.device)
        clean = None if clean is None else clean.to(self.device)
        velocity = self._velocity(prompts, noised, sampler, negative)
        ratio = stage_ratio(self.flow, (height, width), shape[2])
        return sample_flow(velocity, noise, sampler, ratio, clean, noised, given.start_step).cpu()

    @torch.no_grad()
    def encode(self, clips: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Normalised latents [N, C, K, H/8, W/8] of uint8 [N, T, h, w, 3], T = 8k or 1 + 8k (a picture is a clip of one frame).

        The posterior's mean: a given frame carries no noise.
        """
        means = [part.mean.cpu() for part in self.vae.encode_stream(_blocks(clips, size), clips.shape[1])]
        return self.norm.normalise(torch.cat(means, dim=2))

    @torch.no_grad()
    def decode(self, latents: Tensor, given: Given = TEXT_ALONE) -> np.ndarray:
        """uint8 [N, T, H, W, 3] of normalised latents, window by window; given frames replace their reconstructions."""
        n, _, k, h, w = latents.shape
        pixels, done = np.empty((n, CHUNK * (k - 1) + 1, 8 * h, 8 * w, 3), np.uint8), 0
        for block in self.vae.decode_stream(self.norm.restore(latents).to(self.device), clip=True):
            colours = ((block.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            pixels[:, done : done + block.shape[2]] = colours.permute(0, 2, 3, 4, 1).cpu().numpy()
            done += block.shape[2]
        given.paste(pixels)
        return pixels

    def batch_size(self, size: tuple[int, int] | None = None, frames: int | None = None) -> int:
        """How many clips fit in one batch, by their pixels (default: the checkpoint's)."""
        height, width = size or self.size
        return max(1, min(48, PIXELS_A_BATCH // max(1, height * width * (frames or self.frames))))

    def _velocity(self, prompts: Sequence[str], noised_BT: Tensor, sampler: Sampler, negative: str | None) -> Velocity:
        """Both branches of a guided step are one network call. Text is encoded and projected once, here."""
        texts = self.encoder.encode(list(prompts))
        if sampler.guidance != 1.0:
            without = self.encoder.encode_null() if negative is None else self.encoder.encode([negative])[0]
            texts = [*texts, *[without] * len(prompts)]
        text, mask = (x.to(self.device) for x in pad_text([torch.from_numpy(t) for t in texts]))
        text = self.model.embed_text(text)
        noised = noised_BT.repeat(2, 1)
        fps = torch.full((len(noised),), float(self.fps), device=self.device)

        def velocity(x: Tensor, t: float, guided: bool) -> tuple[Tensor, Tensor | None]:
            n = len(x) * (2 if guided else 1)
            latents = torch.cat([x, x]) if guided else x
            out = self.model(latents, fps.new_full((n,), t), text[:n], mask[:n], fps[:n], noised[:n], projected=True)
            return (out[: len(x)], out[len(x) :]) if guided else (out, None)

        return velocity

    def check(self, height: int, width: int, frames: int, sampler: Sampler) -> None:
        """UserError unless the networks can make such a clip with such a sampler."""
        check_size(height, width)
        check_frames(frames)
        channels = self.model.config.latent_channels
        beyond = [c for c in sampler.dynamic_clamp if c >= channels]
        if beyond:
            raise UserError(f"dynamic_clamp: there is no channel {beyond[0]}; the latents have channels 0 to {channels - 1}")


def _blocks(clips: np.ndarray, size: tuple[int, int]) -> Iterator[Tensor]:
    """uint8 [N, T, h, w, 3] -> blocks of video [N, 3, n, H, W] in [-1, 1]."""
    for start in range(0, clips.shape[1], CHUNK):
        pixels = torch.from_numpy(fitted(clips[:, start : start + CHUNK], *size))
        yield pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
