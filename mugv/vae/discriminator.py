"""A patch discriminator over short videos for the VAE's last fine-tuning stage (paper 4.1: GAN only there, small weight).

Legend: B clips, C channels, T frames, H W pixels.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Video [B, 3, T, H, W] in [-1, 1] -> scores [B, 1, T', H/8, W/8], one a patch; T' = T/4 rounded up."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        self.conv_in = nn.Conv3d(3, widths[0], (3, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1))
        self.down = nn.ModuleList(nn.Conv3d(a, b, (3, 4, 4), stride=(2, 2, 2), padding=(0, 1, 1)) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(max(1, w // 8), w) for w in widths[1:])
        self.conv_out = nn.Conv3d(widths[-1], 1, 3, padding=(0, 1, 1))

    def forward(self, video: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv_in(_padded(video)), 0.2)
        for conv, norm in zip(self.down, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(_padded(x))), 0.2)
        return self.conv_out(_padded(x))


def _padded(x: Tensor) -> Tensor:
    """A frame of zeros before and after, by hand: see mugv.vae.temporal.Conv3d."""
    return F.pad(x, (0, 0, 0, 0, 1, 1))
