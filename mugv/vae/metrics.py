"""Reconstruction metrics. Videos are [B, 3, T, H, W] in [0, 1]; one value a clip is returned, so that callers can give intervals."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each clip in dB, from the error over the whole clip: [B]. At most 100."""
    error = (output - target).square().flatten(1).mean(dim=1)
    return -10.0 * torch.log10(error.clamp_min(1e-10))


def ssim(output: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each clip, mean over its frames: [B] (Gaussian window of 11, sigma 1.5, data range 1)."""
    batch, _, frames = target.shape[:3]
    x, y = (v.transpose(1, 2).flatten(0, 1) for v in (output, target))
    stack = torch.cat([x, y, x * x, y * y, x * y])
    mean_x, mean_y, xx, yy, xy = _blur(stack).chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
    return (above / below).flatten(1).mean(dim=1).view(batch, frames).mean(dim=1)


def _blur(images: Tensor) -> Tensor:
    """Gaussian blur [N, 3, H, W], window 11 without padding."""
    offsets = torch.arange(11, dtype=images.dtype, device=images.device) - 5
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    line = line / line.sum()
    channels = images.shape[1]
    rows = line.view(1, 1, 11, 1).expand(channels, 1, 11, 1)
    columns = line.view(1, 1, 1, 11).expand(channels, 1, 1, 11)
    return F.conv2d(F.conv2d(images, rows, groups=channels), columns, groups=channels)
