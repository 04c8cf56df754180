"""The temporal net of the VideoVAE: 8x in time on the trunk's feature maps, chunk by chunk (released code; paper 3.1.2).

The encoder sees one chunk of 8 frames and nothing else. The decoder sees a window of R latents. Convolutions pad with zeros
on both sides in time: (k - 1) + (1 - stride) rows in all, the smaller half in front. Module names are those of the released file.
Legend: B chunks or windows, C channels, T frames or latents, H W rows and columns of the feature map.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from mugv.recipe.models import VAEModel
from mugv.vae.spatial import silu

EPSILON = 1e-5


class Conv3d(nn.Module):
    """Conv with a cubic kernel; keeps height and width, and time up to its stride. The weights sit in `conv`, as in the release."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, time_stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        same, strides = kernel // 2, (time_stride, 1, 1)
        self.pad_behind = kernel > 1 and time_stride == 2
        padding = (0 if self.pad_behind else same, same, same)
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride=strides, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if conv.padding[0] and x.shape[2] == 2:
            # The CPU's bf16 weight gradient of a time-padded conv over exactly two frames is garbage (torch 2.13); pad by hand.
            return F.conv3d(F.pad(x, (0, 0, 0, 0, 1, 1)), conv.weight, conv.bias, padding=(0, 1, 1))
        return conv(F.pad(x, (0, 0, 0, 0, 0, 1)) if self.pad_behind else x)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, conv 3x3x3, twice, beside a shortcut. [B, in, T, H, W] -> [B, out, T, H, W]."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=EPSILON)
        self.conv1 = Conv3d(channels_in, channels_out, 3, bias=False)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=EPSILON)
        self.conv2 = Conv3d(channels_out, channels_out, 3, bias=False)
        self.conv3 = Conv3d(channels_in, channels_out, 1, bias=False) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return h + (self.conv3(x) if self.conv3 is not None else x)


class UpsampleBlock(ResBlock):
    """Doubles time by repeating, then a ResBlock whose shortcut is the repeated input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.repeat_interleave(2, dim=2))


class DepthToTime(Conv3d):
    """Doubles time by a conv to twice the channels; channel index = (C, time) with time fastest."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        b, c, t, h, w = x.shape
        return x.view(b, c // 2, 2, t, h, w).permute(0, 1, 3, 2, 4, 5).reshape(b, c // 2, 2 * t, h, w)


def _blocks(channels_in: int, channels_out: int, count: int, groups: int) -> nn.Sequential:
    widths = [channels_in] + [channels_out] * count
    return nn.Sequential(*(ResBlock(a, b, groups) for a, b in itertools.pairwise(widths)))


class TemporalEncoder(nn.Module):
    """Chunks [B, C, 8, h, w] -> moments [B, 2 Cz, 1, h, w]."""

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        widths, groups, count = config.temporal_channels, config.groups, config.temporal_blocks
        before = [widths[0], *widths]
        self.conv_in = Conv3d(config.feature_channels, widths[0], 3, bias=False)
        self.block_res_blocks = nn.ModuleList(_blocks(before[i], w, count, groups) for i, w in enumerate(widths))
        self.conv_blocks = nn.ModuleList(Conv3d(w, w, 3, time_stride=2) for w in widths[:3])
        self.res_blocks = _blocks(widths[3], widths[3], count, groups)
        self.norm1 = nn.GroupNorm(groups, widths[3], eps=EPSILON)
        self.conv2 = Conv3d(widths[3], 2 * config.latent_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for i, blocks in enumerate(self.block_res_blocks):
            x = blocks(x)
            x = self.conv_blocks[i](x) if i < len(self.conv_blocks) else x
        return self.conv2(silu(self.norm1(self.res_blocks(x))))


class TemporalDecoder(nn.Module):
    """Window of latents [B, Cz, R, h, w] -> features [B, C, 8R, h, w]."""

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        w0, w1, w2, w3 = config.temporal_channels
        groups, count = config.groups, config.temporal_blocks
        self.conv1 = Conv3d(config.latent_channels, w3, 3)
        self.res_blocks = _blocks(w3, w3, count, groups)
        self.upsample_block = UpsampleBlock(w3, groups)
        self.block_res_blocks = nn.ModuleList(
            [
                _blocks(w1, w0, count, groups),
                _blocks(w2, w1, count, groups),
                _blocks(w3, w2, count, groups),
                _blocks(w3, w3, count, groups),
            ]
        )
        self.conv_blocks = nn.ModuleList([nn.Identity(), DepthToTime(w2), DepthToTime(w3)])
        self.norm1 = nn.GroupNorm(groups, w0, eps=EPSILON)
        self.conv_out = Conv3d(w0, config.feature_channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.upsample_block(self.res_blocks(self.conv1(z)))
        for stage in (3, 2, 1, 0):
            x = self.block_res_blocks[stage](x)
            x = self.conv_blocks[stage - 1](x) if stage else x
        return self.conv_out(silu(self.norm1(x)))


class TemporalVAE(nn.Module):
    """Encoder and decoder with their 1x1x1 quantisation convs."""

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        self.encoder = TemporalEncoder(config)
        self.decoder = TemporalDecoder(config)
        self.quant_conv = Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = Conv3d(config.latent_channels, config.latent_channels, 1)

    def moments(self, chunks: Tensor) -> Tensor:
        """Chunks [B, C, 8, h, w] -> mean and log-variance [B, 2 Cz, 1, h, w]."""
        return self.quant_conv(self.encoder(chunks))

    def features(self, latents: Tensor) -> Tensor:
        """Window [B, Cz, R, h, w] -> features [B, C, 8R, h, w]."""
        return self.decoder(self.post_quant_conv(latents))
