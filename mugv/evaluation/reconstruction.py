"""What the VAE loses: held-out clips through the VAE and back, PSNR and SSIM with intervals over clips.

Legend: B clips, T frames, H W rows and columns. Clips are uint8 [T, H, W, 3]; the VAE sees [B, 3, T, H, W] in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mugv.vae.metrics import psnr, ssim


@dataclass(frozen=True)
class Mean:
    """A mean over clips with its 95% interval (normal approximation)."""

    n: int
    value: float
    low: float
    high: float
    values: tuple[float, ...] = ()
    """Of each clip."""

    @staticmethod
    def of(values: Sequence[float]) -> Mean:
        n = len(values)
        if n == 0:
            raise ValueError("a mean needs at least one clip")
        mean = float(np.mean(values))
        half = 1.959964 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        return Mean(n, mean, mean - half, mean + half, tuple(values))


def to_tensor(clips_BTHWC: np.ndarray) -> Tensor:
    """uint8 [B, T, H, W, 3] -> float [B, 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(clips_BTHWC)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def to_clips(video_B3THW: Tensor) -> np.ndarray:
    """float [B, 3, T, H, W] in [-1, 1] -> uint8 [B, T, H, W, 3]."""
    pixels = ((video_B3THW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 4, 1).cpu().numpy()


def quality(real: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> tuple[Mean, Mean] | None:
    """(PSNR in dB, SSIM) of clips against the real ones, each clip by itself; None when there are no clips."""
    pairs = [[(to_tensor(clip[None]) + 1) / 2 for clip in pair] for pair in zip(made, real, strict=True)]
    if not pairs:
        return None
    return Mean.of([float(psnr(*pair)) for pair in pairs]), Mean.of([float(ssim(*pair)) for pair in pairs])


@torch.inference_mode()
def reconstruct(vae: Any, clips: Sequence[np.ndarray], batch: int, tick: Callable[[int], None]) -> list[np.ndarray]:
    """Each clip of 1 + 8k frames encoded to the posterior's mean and decoded (mugv.vae.VideoVAE)."""
    vae.eval()
    device = next(vae.parameters()).device
    made: list[np.ndarray] = []
    for start in range(0, len(clips), batch):
        part = np.stack(clips[start : start + batch])
        made += list(to_clips(vae.decode_clip(vae.encode(to_tensor(part).to(device)).mean)))
        tick(len(part))
    return made
