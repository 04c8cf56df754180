"""Pictures that a generated clip starts from: first frames, last frames, a whole clip (facts 4.5). One network does all by the frame mask.

Legend: N prompts, F given frames, C latent channels, T frames or latent frames, H W rows and columns, h w those of given pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mugv.errors import UserError

CHUNK = 8
"""Frames of a latent."""


@dataclass(frozen=True)
class Given:
    """uint8 pictures of any size (scaled to cover the clip, centre-cropped), one entry a prompt. Nothing set: text to video.

    first: [N, F, h, w, 3], F = 1 + 8k. The clip's first frames: one picture animates it, more continue a clip.
    last: [N, F, h, w, 3], F = 1 or 8k. The clip's last frames; one picture stands for the last eight, standing still.
    source: [N, T, h, w, 3], as many frames as the clip. Noised to the sampler's step `start_step` and denoised from there (video to
        video): the later the step, the more of it stays; 1 to the sampler's steps.
    """

    first: np.ndarray | None = None
    last: np.ndarray | None = None
    source: np.ndarray | None = None
    start_step: int = 0

    def part(self, which: slice) -> Given:
        """That of some of the prompts."""
        first, last, source = (None if x is None else x[which] for x in (self.first, self.last, self.source))
        return Given(first, last, source, self.start_step)

    def check(self, prompts: int, frames: int, steps: int) -> None:
        """UserError unless it fits `prompts` clips of `frames` frames and a sampler of `steps` steps."""
        for name in ("first", "last", "source"):
            pictures = getattr(self, name)
            if pictures is not None and (pictures.ndim != 5 or pictures.shape[0] != prompts or pictures.shape[-1] != 3):
                raise UserError(f"given {name}: expected [{prompts} prompts, frames, height, width, 3], got {list(pictures.shape)}")
        if self.first is not None and self.first.shape[1] % CHUNK != 1:
            raise UserError(f"{self.first.shape[1]} first frames: must be 1 + 8k (1, 9, 17, ...)")
        if self.last is not None and self.last.shape[1] != 1 and (self.last.shape[1] % CHUNK or not self.last.shape[1]):
            raise UserError(f"{self.last.shape[1]} last frames: must be one picture or 8k frames (8, 16, ...)")
        if sum(self._latents()) >= 1 + frames // CHUNK:
            raise UserError(f"the given frames fill all latents of a clip of {frames} frames ({1 + frames // CHUNK}); ask for more frames")
        self._check_source(frames, steps)

    def _check_source(self, frames: int, steps: int) -> None:
        if (self.source is None) != (self.start_step == 0):
            raise UserError("a source clip and a start step of at least 1 go together")
        if self.source is not None and self.source.shape[1] != frames:
            raise UserError(f"the source has {self.source.shape[1]} frames, the clip {frames}: they must be as many")
        if self.start_step > steps:
            raise UserError(f"start step {self.start_step}: the sampler has {steps} steps")

    def _latents(self) -> tuple[int, int]:
        """How many latents at the start and at the end are given."""
        first = 0 if self.first is None else 1 + self.first.shape[1] // CHUNK
        last = 0 if self.last is None else max(1, self.last.shape[1] // CHUNK)
        return first, last

    def latents(self, shape: tuple[int, ...], encode: Callable[[np.ndarray], Tensor]) -> tuple[Tensor | None, Tensor]:
        """Clean latents [N, C, T, H/8, W/8], zero where nothing is given (None: nothing at all), and noised bool [N, T].

        encode: uint8 [N, F, h, w, 3] -> normalised latents.
        """
        noised = torch.ones(shape[0], shape[2], dtype=torch.bool)
        if self.first is None and self.last is None and self.source is None:
            return None, noised
        clean = torch.zeros(shape) if self.source is None else encode(self.source)
        start, end = self._latents()
        if self.first is not None:
            clean[:, :, :start] = encode(self.first)
            noised[:, :start] = False
        if self.last is not None:
            clean[:, :, -end:] = encode(self.last)
            noised[:, -end:] = False
        return clean, noised

    def paste(self, pixels: np.ndarray) -> None:
        """Given frames replace their reconstructions in uint8 [N, T, H, W, 3]."""
        if self.first is not None:
            pixels[:, : self.first.shape[1]] = fitted(self.first, *pixels.shape[2:4])
        if self.last is not None:
            pixels[:, -self.last.shape[1] :] = fitted(self.last, *pixels.shape[2:4])


def fitted(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [N, F, h, w, 3] -> [N, F, height, width, 3]."""
    from mugv.media.resize import resize_crop  # needs OpenCV, which generation from text alone does without

    return np.stack([resize_crop(clip, height, width) for clip in pictures])


def turned(size: tuple[int, int], shape: tuple[int, int] | None) -> tuple[int, int]:
    """A default size, lying or standing as what is given does: a picture keeps most of itself."""
    height, width = size
    if shape is None or height == width or shape[0] == shape[1] or (height > width) == (shape[0] > shape[1]):
        return size
    return width, height


def check_size(height: int, width: int) -> None:
    """UserError unless latents and patches divide the pixels; it names the nearest size that they do."""
    if height % 16 or width % 16 or min(height, width) < 16:
        near = "x".join(str(max(16, 16 * round(side / 16))) for side in (height, width))
        raise UserError(f"size {height}x{width}: height and width must be multiples of 16; the nearest is {near}")


def check_frames(frames: int) -> None:
    """UserError unless a clip has 1 + 8k frames; it names the nearest number."""
    if frames < 1 or frames % CHUNK != 1:
        raise UserError(f"frames {frames}: must be 1 + 8k; the nearest is {1 + CHUNK * max(0, round((frames - 1) / CHUNK))}")
