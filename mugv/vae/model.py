"""VideoVAE: video -> latents 8x smaller in time, height and width, and back (paper 3.1; structure of the released code).

    video --SpatialEncoder, frame by frame--> features --TemporalEncoder, 8-frame chunks--> latents
    latents --TemporalDecoder, windows of R latents--> features --SpatialDecoder, frame by frame--> video

Each latent is computed from exactly its own 8 frames. A clip of 1 + 8k frames gets its first frame repeated 7 times in
front, so its first latent is that of a still image. Encoding and decoding work through a video piece by piece, so that memory
does not grow with its length. Latents here are never normalised: LatentNorm (mugv/dataset/latentset.py) alone does that.
Training lives in mugv/vae/training.py.
Legend: B clips, T frames, K latents, N frames of all clips, H W pixels, h w = H/8 W/8, Cz latent channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.vae.spatial import Attention, ResnetBlock2D, SpatialVAE
from mugv.vae.temporal import ResBlock, TemporalVAE
from mugv.vae.tiling import PIXELS, Tiling, crossfade, regroup, spans, tiled

CHUNK = 8
"""Frames of a latent."""
SPATIAL_SCALE = 0.18215
"""The SDXL trunk's features are multiplied by this before the temporal net (released code)."""
START_LOGVAR = -6.0
"""Log-variance of the posterior at the start of training."""
FRAMES, CHUNKS = 4, 6
"""Frames that pass the trunk together, and chunks that pass the temporal encoder together: at most as many as in the released code."""
MAP_BYTES = 128 << 20
"""Fewer do so where one of the trunk's maps at full resolution, or the chunks' pixels and features, would take more than this (fp32)."""


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents [B, Cz, K, h, w]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        # Drawn on the CPU, whose generators alone give the same numbers on every device.
        noise = torch.randn(self.mean.shape, generator=generator, dtype=torch.float32).to(self.mean.device)
        return self.mean + torch.exp(0.5 * self.logvar) * noise


class VideoVAE(nn.Module):
    """The released structure at any width, under the released names. `encode`, `decode` and their streams give no gradients.

    Buffers `shift` and `scale` [1, Cz, 1, 1, 1] belong to the released file (the identity in a net of ours); nothing here applies them.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: VAEModel) -> None:
        super().__init__()
        self.config = config
        self.spatial_vae = SpatialVAE(config)
        self.temporal_vae = TemporalVAE(config)
        self.logvar = nn.Parameter(torch.full((), 4.0))
        self.register_buffer("shift", torch.zeros(1, config.latent_channels, 1, 1, 1))
        self.register_buffer("scale", torch.ones(1, config.latent_channels, 1, 1, 1))
        if not self.logvar.is_meta:
            initialise(self)

    def encode(self, video: Tensor, tiling: Tiling | None = None) -> Posterior:
        """Video [B, 3, T, H, W] in [-1, 1] -> Posterior of latents [B, Cz, K, H/8, W/8].

        T = 8k gives k latents, T = 1 + 8k gives k + 1. UserError for other T and for H or W not divisible by 16.
        """
        check_video(video)
        parts = list(self.encode_stream([video], video.shape[2], tiling))
        return Posterior(torch.cat([p.mean for p in parts], dim=2), torch.cat([p.logvar for p in parts], dim=2))

    @torch.no_grad()
    def encode_stream(self, blocks: Iterable[Tensor], frames: int, tiling: Tiling | None = None) -> Iterator[Posterior]:
        """A video of `frames` frames, in blocks [B, 3, n, H, W] of any n, on any device -> Posteriors that follow each other in time.

        Memory depends on the frame size, B and the blocks, not on `frames`. UserError as in `encode`, and when the blocks
        hold more or fewer frames than that.
        """
        check_frames(frames)
        source = iter(blocks)
        block = next(source, torch.empty(1, 3, 0, 16, 16))
        check_frame_shape(block)
        still, per_group = frames % CHUNK, self._chunk_batch(block)
        groups = regroup(itertools.chain([block], source), frames, still + CHUNK * (per_group - still), CHUNK * per_group)
        del block
        for number, group in enumerate(groups):
            repeat = CHUNK - 1 if still and number == 0 else 0
            yield _posterior(tiled(partial(self._encode_group, repeat=repeat), group.to(self.shift), PIXELS, 1, tiling))

    def _encode_group(self, video: Tensor, repeat: int) -> Tensor:
        """Video of whole chunks but for `repeat` more copies of frame 0 -> moments [B, 2 Cz, K, h, w]."""
        features = self.encode_frames(video)
        if repeat:
            features = torch.cat([features[:, :, :1].expand(-1, -1, repeat, -1, -1), features], dim=2)
        return self._moments(features)

    def encode_frames(self, video: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] -> features [B, C, T, h, w], each frame by itself."""
        encoder = self.spatial_vae.encoder
        features = _in_batches(lambda frames: encoder(frames) * SPATIAL_SCALE, _to_frames(video), self._frame_batch(video))
        return _to_video(features, len(video))

    def posterior(self, features: Tensor) -> Posterior:
        """Features [B, C, 8K, h, w] -> Posterior of [B, Cz, K, h, w], each chunk by itself."""
        return _posterior(self._moments(features))

    def _moments(self, features: Tensor) -> Tensor:
        b, c, t, h, w = features.shape
        chunks = features.view(b, c, t // CHUNK, CHUNK, h, w).transpose(1, 2).reshape(-1, c, CHUNK, h, w)
        moments = self.temporal_vae.moments(chunks).float()
        return moments.view(b, t // CHUNK, -1, h, w).transpose(1, 2)

    def decode(self, latents: Tensor, window: int | None = None, overlap: int | None = None, tiling: Tiling | None = None) -> Tensor:
        """Latents [B, Cz, K, h, w] -> video [B, 3, 8K, 8h, 8w]; see `decode_stream`."""
        self._check_latents(latents)
        return _filled(self.decode_stream(latents, window, overlap, tiling), CHUNK * latents.shape[2], 2)

    def decode_clip(self, latents: Tensor, window: int | None = None, overlap: int | None = None, tiling: Tiling | None = None) -> Tensor:
        """Latents [B, Cz, k + 1, h, w] of a clip of 1 + 8k frames -> exactly these frames: the first latent shows eight
        copies of frame 0, of which the last is kept (the release trims at the other end, facts 10.2 I4)."""
        self._check_latents(latents)
        blocks = self.decode_stream(latents, window, overlap, tiling, clip=True)
        return _filled(blocks, CHUNK * (latents.shape[2] - 1) + 1, 2)

    @torch.no_grad()
    def decode_stream(
        self, latents: Tensor, window: int | None = None, overlap: int | None = None, tiling: Tiling | None = None, clip: bool = False
    ) -> Iterator[Tensor]:
        """Latents [B, Cz, K, h, w] -> blocks [B, 3, n, 8h, 8w] that follow each other in time; `clip` as in `decode_clip`.

        Windows of `window` latents (config.decode_window), the last one shorter, are decoded by themselves; each shares
        `overlap` latents (config.decode_overlap) with the one before, whose frames are cross-faded. Memory depends on the
        frame size, B and the window, not on K. UserError for other shapes and for windows and overlaps that make no sense.
        """
        window = self.config.decode_window if window is None else window
        overlap = self.config.decode_overlap if overlap is None else overlap
        self._check_latents(latents)
        check_window(window, overlap)
        latents = latents.to(self.shift)
        yield from crossfade(self._decode_windows(latents, window, overlap, tiling, clip), CHUNK * overlap)

    def _decode_windows(self, latents: Tensor, window: int, overlap: int, tiling: Tiling | None, clip: bool) -> Iterator[Tensor]:
        for start, stop in spans(latents.shape[2], window, overlap):
            skip = CHUNK - 1 if clip and start == 0 else 0
            yield tiled(partial(self.decode_window, skip=skip), latents[:, :, start:stop], 1, PIXELS, tiling)

    def decode_window(self, latents: Tensor, skip: int = 0) -> Tensor:
        """One window [B, Cz, R, h, w], decoded together -> video [B, 3, 8R - skip, 8h, 8w] without its first `skip` frames."""
        return self.decode_frames(self.temporal_vae.features(latents)[:, :, skip:])

    def decode_frames(self, features: Tensor) -> Tensor:
        """Features [B, C, T, h, w] -> video [B, 3, T, 8h, 8w], each frame by itself."""
        decoder = self.spatial_vae.decoder
        batch = self._frame_batch(features, PIXELS)
        return _to_video(_in_batches(lambda frames: decoder(frames / SPATIAL_SCALE), _to_frames(features), batch), len(features))

    def _frame_batch(self, maps: Tensor, scale: int = 1) -> int:
        """How many frames pass the trunk at once, from maps [..., H/scale, W/scale]."""
        return self.trunk_frames(maps.shape[-2] * maps.shape[-1] * scale**2)

    def trunk_frames(self, pixels: int) -> int:
        """How many frames of so many pixels pass the trunk at once."""
        return min(FRAMES, max(1, MAP_BYTES // (4 * self.config.base_channels * max(1, pixels))))

    def _chunk_batch(self, video: Tensor) -> int:
        """How many chunks of a video [B, ..., H, W] pass the temporal encoder at once."""
        latents = len(video) * (video.shape[-2] // PIXELS) * (video.shape[-1] // PIXELS)
        values = latents * CHUNK * (self.config.feature_channels + 3 * PIXELS**2)
        return min(CHUNKS, max(1, MAP_BYTES // (4 * max(1, values))))

    def _check_latents(self, latents: Tensor) -> None:
        channels = self.config.latent_channels
        if latents.ndim != 5 or latents.shape[1] != channels or 0 in latents.shape:
            raise UserError(f"latents are [batch, {channels}, latent frames, height, width], got {list(latents.shape)}")


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
            conv = module.conv2.conv if isinstance(module, ResBlock) else module.conv2
            nn.init.zeros_(conv.get_parameter("weight"))
        elif isinstance(module, Attention):
            nn.init.zeros_(module.to_out.get_parameter("0.weight"))
    with torch.no_grad():
        quant = vae.temporal_vae.quant_conv.conv
        for tensor, value in ((quant.weight, 0.0), (quant.bias, START_LOGVAR)):
            assert tensor is not None
            tensor[vae.config.latent_channels :] = value


def check_video(video: Tensor) -> None:
    """UserError unless the video is [B, 3, T, H, W] of floats with T = 8k or 1 + 8k and sides divisible by 16."""
    check_frame_shape(video)
    check_frames(video.shape[2])


def check_frame_shape(video: Tensor) -> None:
    """UserError unless it is [B, 3, T, H, W] of floats with sides divisible by 16."""
    if video.ndim != 5 or video.shape[1] != 3:
        raise UserError(f"a video is [batch, 3, frames, height, width], got {list(video.shape)}")
    if not video.is_floating_point():
        raise UserError(f"a video holds floats in [-1, 1], got {video.dtype}")
    height, width = video.shape[3:]
    if height % 16 or width % 16 or not height * width:
        raise UserError(f"height and width must be multiples of 16, got {height} x {width}")


def check_frames(frames: int) -> None:
    """UserError unless frames = 8k or 1 + 8k."""
    if frames % CHUNK > 1 or frames < 1:
        raise UserError(f"a clip has 8k or 1 + 8k frames (8, 9, 16, 17, ...), got {frames}")


def check_window(window: int, overlap: int) -> None:
    """UserError unless window >= 1 and 0 <= overlap <= window / 2."""
    if window < 1:
        raise UserError(f"a decode window has at least 1 latent, got {window}")
    if not 0 <= overlap <= window // 2:
        raise UserError(f"the overlap of decode windows of {window} latents is 0 to {window // 2}, got {overlap}")


@lru_cache
def count_parameters(config: VAEModel) -> int:
    """Parameters of the VideoVAE, without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in VideoVAE(config).parameters())


def _posterior(moments: Tensor) -> Posterior:
    mean, logvar = moments.chunk(2, dim=1)
    return Posterior(mean, logvar.clamp(-30.0, 20.0))


def _to_frames(video: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B T, C, H, W]."""
    return video.transpose(1, 2).flatten(0, 1)


def _to_video(frames: Tensor, batch: int) -> Tensor:
    """[B T, C, H, W] -> [B, C, T, H, W]."""
    return frames.view(batch, -1, *frames.shape[1:]).transpose(1, 2)


def _in_batches(net: Callable[[Tensor], Tensor], frames: Tensor, batch: int) -> Tensor:
    """net(frames), in batches when no gradient is wanted."""
    if torch.is_grad_enabled():
        return net(frames)
    # Convolutions take channels-last maps a quarter faster, and without copies of their own.
    parts = (net(part.contiguous(memory_format=torch.channels_last)) for part in frames.split(batch))
    return _filled(parts, len(frames), 0)


def _filled(parts: Iterator[Tensor], size: int, axis: int) -> Tensor:
    """Parts joined along an axis of known size, without holding them twice."""
    first = next(parts)
    whole = first.new_empty(*first.shape[:axis], size, *first.shape[axis + 1 :])
    start = 0
    for part in itertools.chain([first], parts):
        whole.narrow(axis, start, part.shape[axis]).copy_(part)
        start += part.shape[axis]
    return whole
