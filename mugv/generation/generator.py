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

from mugv.dataset.latentset import pad_text
from mugv.dit.model import MugDiT
from mugv.errors import UserError
from mugv.flow.sampler import Velocity, sample_flow
from mugv.generation.given import CHUNK, Given, check_frames, check_size, fitted
from mugv.generation.loading import is_finite, open_networks
from mugv.generation.room import AUTO, Tiles, check_room, tiling_for
from mugv.generation.seeds import check_seeds, noise_of
from mugv.generation.settings import Settings, evaluated_sampler
from mugv.precision import Precision, here, resolve
from mugv.recipe.schema import Sampler
from mugv.text import open_encoder
from mugv.text.encoder import Encoder
from mugv.training.flow_data import stage_ratio
from mugv.vae import VideoVAE

Progress = Callable[[int, int, dict[str, float]], None]
TEXT_ALONE = Given()
PIXELS_A_BATCH = 1 << 21
"""Frames x height x width of the clips that are sampled at once, at most; one clip at least, 48 at most."""


class Generator:
    """Holds the networks; `generate` returns pixels. Networks run where the DiT's parameters are; results are on the CPU.

    `usage` is what the checkpoint says of itself: the text that follows every prompt, the negative prompt, the sampler, the rate of
    files. `tiling`: tiles of the VAE (auto: as the free memory asks; None: whole frames).
    """

    def __init__(
        self, model: MugDiT, config: dict[str, Any], vae: VideoVAE, *, encoder: Encoder | None = None, tiling: Tiles = AUTO
    ) -> None:
        self.device = next(model.parameters()).device
        self.model, self.config, self.vae = model.eval(), config, vae.eval().to(self.device)
        settings = Settings.read(config)
        self.encoder = encoder or open_encoder(settings.text)
        self.norm, self.flow, self.usage = settings.norm, settings.flow, settings.usage
        self.size, self.frames, self.fps = settings.size, settings.frames, settings.fps
        self.tiling = tiling

    @staticmethod
    def open(
        checkpoint: Path,
        vae: Path,
        *,
        precision: Precision = "auto",
        vae_precision: Precision | None = None,
        text_precision: Precision | None = None,
        tiling: Tiles = AUTO,
        evaluated: Path | None = None,
    ) -> Generator:
        """From folders. `precision`: of the DiT, and of the VAE and the text encoder where they have none of their own; auto is bf16 on
        a GPU and fp32 on a CPU. `evaluated`: metrics.json of the model's evaluation, whose sampler becomes the default.

        Raises UserError for folders that hold no networks and for weights that are not finite.
        """
        model, config, video_vae = open_networks(Path(checkpoint), Path(vae), precision, vae_precision or precision)
        text = open_encoder(Settings.read(config).text, resolve(text_precision or precision, here()))
        made = Generator(model, config, video_vae, encoder=text, tiling=tiling)
        if evaluated:
            made.usage = made.usage.model_copy(update={"sampler": evaluated_sampler(evaluated)})
        return made

    @property
    def file_fps(self) -> float:
        """Frames a second of the files; `fps` is what the network is told."""
        return self.usage.file_fps or self.fps

    def generate(
        self,
        prompts: Sequence[str],
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        seeds: Sequence[int] = (0,),
        sampler: Sampler | None = None,
        given: Given = TEXT_ALONE,
        suffix: str | None = None,
        negative: str | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Clips uint8 [N, T, H, W, 3]; T = 1: pictures. `seeds`: one for each prompt, or one for all; 0 to 2^64 - 1.

        size in pixels, frames 1 + 8k, sampler, suffix (what follows each prompt) and negative (what guidance leads away from): the
        checkpoint's where they are not given. `batch`: clips at once (default: by their size); another batch rounds otherwise, which
        was seen to change pixels by 1 of 255. Raises UserError for what the networks cannot do.
        """
        batch = batch or self.batch_size(size, frames)
        seeds = list(seeds) * len(prompts) if len(seeds) == 1 else list(seeds)
        made = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            some = given.part(part)
            latents = self.sample(
                prompts[part], seeds[part], size=size, frames=frames, sampler=sampler, given=some, suffix=suffix, negative=negative
            )
            made.append(self.decode(latents, some))
            if progress:
                progress(min(start + batch, len(prompts)), len(prompts), {})
        if not made:
            return np.empty((0, frames or self.frames, *(size or self.size), 3), np.uint8)
        return made[0] if len(made) == 1 else np.concatenate(made)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        sampler: Sampler | None = None,
        given: Given = TEXT_ALONE,
        suffix: str | None = None,
        negative: str | None = None,
    ) -> Tensor:
        """Normalised latents [N, C, T, H/8, W/8]; arguments as in `generate`, one seed a prompt."""
        height, width = self.size if size is None else size
        frames = self.frames if frames is None else frames
        sampler = self.usage.sampler if sampler is None else sampler
        self.check(height, width, frames, sampler, len(prompts))
        given.check(len(prompts), frames, sampler.steps)
        if len(seeds) != len(prompts):
            raise UserError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for each, or one for all")
        check_seeds(seeds)
        shape = (len(prompts), self.model.config.latent_channels, 1 + frames // CHUNK, height // 8, width // 8)
        noise = torch.stack([noise_of(seed, shape[1:]) for seed in seeds])
        clean, noised = given.latents(shape, lambda pictures: self.encode(pictures, (height, width)))
        noise, noised = noise.to(self.device), noised.to(self.device)
        clean = None if clean is None else clean.to(self.device)
        velocity = self._velocity(prompts, noised, sampler, self.usage.prompt_suffix if suffix is None else suffix, negative)
        ratio = stage_ratio(self.flow, (height, width), shape[2])
        made = sample_flow(velocity, noise, sampler, ratio, clean, noised, given.start_step).cpu()
        _check_finite(made, f"the latents of {prompts[0][:60]!r} (guidance {sampler.guidance:g})")
        return made

    @torch.no_grad()
    def encode(self, clips: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Normalised latents [N, C, K, H/8, W/8] of uint8 [N, T, h, w, 3], T = 8k or 1 + 8k (a picture is a clip of one frame).

        The posterior's mean: a given frame carries no noise.
        """
        tiling = tiling_for(self.tiling, self.vae, size, len(clips))
        means = [part.mean.float().cpu() for part in self.vae.encode_stream(_blocks(clips, size), clips.shape[1], tiling)]
        return self.norm.normalise(torch.cat(means, dim=2))

    @torch.no_grad()
    def decode(self, latents: Tensor, given: Given = TEXT_ALONE) -> np.ndarray:
        """uint8 [N, T, H, W, 3] of normalised latents, window by window; given frames replace their reconstructions.

        Where the first frame is given, windows begin at the second latent, as in the published script.
        """
        n, _, k, h, w = latents.shape
        _check_finite(latents, "the latents")
        tiling = tiling_for(self.tiling, self.vae, (8 * h, 8 * w), n)
        known = 0 if given.first is None else 1
        pixels, done = np.empty((n, CHUNK * (k - 1) + 1, 8 * h, 8 * w, 3), np.uint8), known
        restored = self.norm.restore(latents[:, :, known:]).to(self.device)
        for block in self.vae.decode_stream(restored, tiling=tiling, clip=not known):
            _check_finite(block, "the decoded frames")
            colours = ((block.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            pixels[:, done : done + block.shape[2]] = colours.permute(0, 2, 3, 4, 1).cpu().numpy()
            done += block.shape[2]
        given.paste(pixels)
        return pixels

    def batch_size(self, size: tuple[int, int] | None = None, frames: int | None = None) -> int:
        """How many clips fit in one batch, by their pixels (default: the checkpoint's)."""
        height, width = size or self.size
        return max(1, min(48, PIXELS_A_BATCH // max(1, height * width * (frames or self.frames))))

    def _velocity(self, prompts: Sequence[str], noised_BT: Tensor, sampler: Sampler, suffix: str, negative: str | None) -> Velocity:
        """Both branches of a guided step are one network call. Text is encoded and projected once, here."""
        texts = self.encoder.encode([prompt + suffix for prompt in prompts])
        if sampler.guidance != 1.0:
            away = self.usage.negative if negative is None else negative
            without = self.encoder.encode_null() if away is None else self.encoder.encode([away])[0]
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

    def check(self, height: int, width: int, frames: int, sampler: Sampler, clips: int = 1) -> None:
        """UserError unless the networks, and this machine's memory, can make such clips with such a sampler."""
        check_size(height, width)
        check_frames(frames)
        channels = self.model.config.latent_channels
        beyond = [c for c in sampler.dynamic_clamp if c >= channels]
        if beyond:
            raise UserError(f"dynamic_clamp: there is no channel {beyond[0]}; the latents have channels 0 to {channels - 1}")
        check_room(self.model, height, width, frames, clips)


def _check_finite(values: Tensor, what: str) -> None:
    if not is_finite(values):
        raise UserError(f"{what} are not finite: the weights, or a guidance far from 1, took the sampler out of all numbers")


def _blocks(clips: np.ndarray, size: tuple[int, int]) -> Iterator[Tensor]:
    """uint8 [N, T, h, w, 3] -> blocks of video [N, 3, n, H, W] in [-1, 1]."""
    for start in range(0, clips.shape[1], CHUNK):
        pixels = torch.from_numpy(fitted(clips[:, start : start + CHUNK], *size))
        yield pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
