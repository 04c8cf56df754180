"""VideoVAE: video -> latents 8x smaller in time, height and width, and back (paper 3.1; structure of the released code).

    video --SpatialEncoder, frame by frame--> features --TemporalEncoder, 8-frame chunks--> latents
    latents --TemporalDecoder, windows of R latents--> features --SpatialDecoder, frame by frame--> video

Each latent is computed from exactly its own 8 frames. A clip of 1 + 8k frames gets its first frame repeated 7 times in
front, so its first latent is that of a still image. Training lives in mugv/vae/training.py.
Legend: B clips, T frames, K latents, N frames of all clips, H W pixels, h w = H/8 W/8, Cz latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.vae.spatial import Attention, ResnetBlock2D, SpatialVAE
from mugv.vae.temporal import ResBlock, TemporalVAE

CHUNK = 8
"""Frames of a latent."""
SPATIAL_SCALE = 0.18215
"""The SDXL trunk's features are multiplied by this before the temporal net (released code)."""
START_LOGVAR = -6.0
"""Log-variance of the posterior at the start of training."""
FRAME_BATCH = 4
"""Frames of 720 x 1280 that pass the trunk at once when no gradient is needed, and as many more as are smaller, up to 64."""


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents [B, Cz, K, h, w]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=torch.float32)
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class VideoVAE(nn.Module):
    """The released structure at any width. Buffers `shift` and `scale` are the identity until statistics are known."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        self.config = config
        self.spatial_vae = SpatialVAE(config)
        self.temporal_vae = TemporalVAE(config)
        self.logvar = nn.Parameter(torch.full((), 4.0))
        self.register_buffer("shift", torch.zeros(config.latent_channels))
        self.register_buffer("scale", torch.ones(config.latent_channels))
        initialise(self)

    def encode(self, video: Tensor) -> Posterior:
        """Video [B, 3, T, H, W] in [-1, 1] -> Posterior of latents [B, Cz, K, H/8, W/8].

        T = 8k gives k latents, T = 1 + 8k gives k + 1. UserError for other T and for H or W not divisible by 16.
        """
        check_video(video)
        features = self.encode_frames(video)
        if video.shape[2] % CHUNK == 1:
            features = torch.cat([features[:, :, :1].expand(-1, -1, CHUNK - 1, -1, -1), features], dim=2)
        return self.posterior(features)

    def encode_frames(self, video: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] -> features [B, C, T, h, w], each frame by itself."""
        features = _in_batches(self.spatial_vae.encoder, _to_frames(video), video.shape[3] * video.shape[4]) * SPATIAL_SCALE
        return _to_video(features, video.shape[0])

    def posterior(self, features: Tensor) -> Posterior:
        """Features [B, C, 8K, h, w] -> Posterior of [B, Cz, K, h, w], each chunk by itself."""
        b, c, t, h, w = features.shape
        chunks = features.view(b, c, t // CHUNK, CHUNK, h, w).transpose(1, 2).reshape(-1, c, CHUNK, h, w)
        moments = self.temporal_vae.moments(chunks).float()
        moments = moments.view(b, t // CHUNK, -1, h, w).transpose(1, 2)
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, latents: Tensor, window: int | None = None) -> Tensor:
        """Latents [B, Cz, K, h, w] -> video [B, 3, 8K, 8h, 8w], in windows of `window` latents
        (config.decode_window), the last one shorter."""
        size = window or self.config.decode_window
        return torch.cat([self.decode_window(part) for part in latents.split(size, dim=2)], dim=2)

    def decode_window(self, latents: Tensor) -> Tensor:
        """One window [B, Cz, R, h, w], decoded together -> video [B, 3, 8R, 8h, 8w]."""
        return self.decode_frames(self.temporal_vae.features(latents))

    def decode_frames(self, features: Tensor) -> Tensor:
        """Features [B, C, T, h, w] -> video [B, 3, T, 8h, 8w], each frame by itself."""
        pixels = 64 * features.shape[3] * features.shape[4]
        frames = _in_batches(self.spatial_vae.decoder, _to_frames(features) / SPATIAL_SCALE, pixels)
        return _to_video(frames, features.shape[0])

    def decode_clip(self, latents: Tensor, window: int | None = None) -> Tensor:
        """Latents [B, Cz, k + 1, h, w] of a clip of 1 + 8k frames -> exactly these frames: the first latent shows eight
        copies of frame 0, of which the last is kept."""
        return self.decode(latents, window)[:, :, CHUNK - 1 :]


def initialise(vae: VideoVAE) -> None:
    """Start as a nearly linear autoencoder: unit-gain convs on the main path, silent residual branches, small posterior noise.

    Random branches shrink the signal at every level: on 48-pixel frames the trunk then needs several times the steps.
    """
    for name, parameter in vae.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    for module in vae.modules():
        if isinstance(module, (ResnetBlock2D, ResBlock)):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.to_out.get_parameter("0.weight"))
    with torch.no_grad():
        for tensor, value in ((vae.temporal_vae.quant_conv.weight, 0.0), (vae.temporal_vae.quant_conv.bias, START_LOGVAR)):
            assert tensor is not None
            tensor[vae.config.latent_channels :] = value


def check_video(video: Tensor) -> None:
    """UserError unless the video is [B, 3, T, H, W] with T = 8k or 1 + 8k and sides divisible by 16."""
    if video.ndim != 5 or video.shape[1] != 3:
        raise UserError(f"a video is [batch, 3, frames, height, width], got {list(video.shape)}")
    frames, height, width = video.shape[2:]
    if frames % CHUNK > 1 or frames == 0:
        raise UserError(f"a clip has 8k or 1 + 8k frames (8, 9, 16, 17, ...), got {frames}")
    if height % 16 or width % 16:
        raise UserError(f"height and width must be multiples of 16, got {height} x {width}")


def count_parameters(config: VAEModel) -> int:
    """Parameters of the VideoVAE, without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in VideoVAE(config).parameters())


def _to_frames(video: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B T, C, H, W]."""
    return video.transpose(1, 2).flatten(0, 1)


def _to_video(frames: Tensor, batch: int) -> Tensor:
    """[B T, C, H, W] -> [B, C, T, H, W]."""
    return frames.view(batch, -1, *frames.shape[1:]).transpose(1, 2)


def _in_batches(net: nn.Module, frames: Tensor, pixels: int) -> Tensor:
    if torch.is_grad_enabled():
        return net(frames)
    batch = min(64, max(1, FRAME_BATCH * 720 * 1280 // pixels))
    return torch.cat([net(part) for part in frames.split(batch)])
