"""The 2D trunk of the VideoVAE: the SDXL image autoencoder's encoder and decoder, per frame, 8x in height and width.

Module names are those of the released file (diffusers' AutoencoderKL under `module`). Inside the VideoVAE the encoder stops
before `conv_norm_out` and `conv_out`, and the decoder starts after `conv_in` (released code): these layers are in the file and unused.
Legend: N frames, C channels, H W rows and columns of the map at hand.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mugv.recipe.models import VAEModel

EPSILON = 1e-6
IMAGE_LATENT_CHANNELS = 4


def silu(x: Tensor) -> Tensor:
    """SiLU that overwrites its input when no gradient is wanted: one map less at the peak."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResnetBlock2D(nn.Module):
    """GroupNorm, SiLU, conv, twice, beside a shortcut. [N, in, H, W] -> [N, out, H, W]."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=EPSILON)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=EPSILON)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if self.conv_shortcut is not None else x)


class Attention(nn.Module):
    """Self-attention over all positions of a map, one head as wide as the map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPSILON)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2).unsqueeze(1)
        h = F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h)).squeeze(1)
        return x + self.to_out[0](h).transpose(1, 2).reshape(x.shape)


class Downsample2D(nn.Module):
    """Halves height and width by a strided conv; the pad is one row below and one column to the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample2D(nn.Module):
    """Doubles height and width: nearest neighbour, then a conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class MidBlock(nn.Module):
    """ResNet block, self-attention, ResNet block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock2D(channels, channels, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Level(nn.Module):
    """ResNet blocks of one resolution and the way to the next: `downsamplers` or `upsamplers`, or neither at the end."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, groups: int, resample: nn.Module | None) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * blocks
        self.resnets = nn.ModuleList([ResnetBlock2D(a, b, groups) for a, b in itertools.pairwise(widths)])
        name = "downsamplers" if isinstance(resample, Downsample2D) else "upsamplers"
        if resample is not None:
            self.add_module(name, nn.ModuleList([resample]))
        self.resample = name if resample is not None else ""

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return self.get_submodule(self.resample)[0](x) if self.resample else x  # type: ignore[operator,index]


class SpatialEncoder(nn.Module):
    """[N, 3, H, W] in [-1, 1] -> features [N, C, H/8, W/8]."""

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in config.channel_multipliers]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        before = [widths[0], *widths]
        self.down_blocks = nn.ModuleList(
            Level(before[i], w, config.blocks_per_level, config.groups, Downsample2D(w) if i < 3 else None) for i, w in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], config.groups)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], 2 * IMAGE_LATENT_CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.mid_block(x)


class SpatialDecoder(nn.Module):
    """Features [N, C, H/8, W/8] -> [N, 3, H, W]."""

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        widths = [config.base_channels * m for m in reversed(config.channel_multipliers)]
        self.conv_in = nn.Conv2d(IMAGE_LATENT_CHANNELS, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config.groups)
        before = [widths[0], *widths]
        self.up_blocks = nn.ModuleList(
            Level(before[i], w, config.blocks_per_level + 1, config.groups, Upsample2D(w) if i < 3 else None) for i, w in enumerate(widths)
        )
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        x = self.mid_block(features)
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(silu(self.conv_norm_out(x)))


class ImageAutoencoder(nn.Module):
    """Encoder and decoder of the trunk, without quantisation convs."""

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        self.encoder = SpatialEncoder(config)
        self.decoder = SpatialDecoder(config)


class SpatialVAE(nn.Module):
    """The trunk; `module` is the level of the released names."""

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        self.module = ImageAutoencoder(config)

    @property
    def encoder(self) -> SpatialEncoder:
        return self.module.encoder

    @property
    def decoder(self) -> SpatialDecoder:
        return self.module.decoder

    def image_only(self) -> list[nn.Parameter]:
        """Parameters that only the trunk as an image autoencoder uses (56,840 at full size; dead in the VideoVAE)."""
        layers = (self.encoder.conv_norm_out, self.encoder.conv_out, self.decoder.conv_in)
        return [p for layer in layers for p in layer.parameters()]
