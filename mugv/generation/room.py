"""What fits in memory: clips that no machine here can sample are refused at once, and the VAE takes a frame in tiles where it must.

Figures are for refusing and choosing, not for planning: a lower bound of what sampling needs, an upper one of what the VAE does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import psutil
import torch

from mugv.dit.model import MugDiT
from mugv.errors import UserError
from mugv.vae import CHUNK, Tiling, VideoVAE

logger = logging.getLogger(__name__)

Tiles = Tiling | Literal["auto"] | None
AUTO: Literal["auto"] = "auto"
MAPS = 12
"""Maps [tokens, width] that a block of the DiT holds at once, at least: the stream, the MLP's 4 + 4, queries, keys, values."""
TRUNK_MAPS, TEMPORAL_MAPS = 6.5, 4.0
"""What the VAE holds at its peak, at most: maps of `base_channels` at full resolution in the trunk, and in the temporal net maps of a
window's features. Measured at full width in fp32 on a CPU: 5.9, and 2.9 to 3.7."""
SHARE = 0.8
"""Of the free memory; the rest is left to what the estimate does not know."""
OVERLAP, SMALLEST_TILE = 64, 256
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Files under /sys/fs/cgroup: what a container may take and what it has taken, version 2 and version 1."""


def free_memory(device: torch.device) -> int:
    """Bytes that a network on `device` can still take: of the GPU, or of the machine and the container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = int(psutil.virtual_memory().available)
    for limit, used in _LIMITS:
        values = [_number(Path("/sys/fs/cgroup") / name) for name in (limit, used)]
        if None not in values:
            free = min(free, max(0, values[0] - values[1]))  # type: ignore[operator]
    return free


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def check_room(model: MugDiT, height: int, width: int, frames: int, clips: int) -> None:
    """UserError when sampling `clips` clips of that size needs more memory than there is, whatever is done."""
    parameter = next(model.parameters())
    config = model.config
    tokens = (1 + frames // CHUNK) * (height // (8 * config.patch)) * (width // (8 * config.patch))
    needed = 2 * clips * tokens * config.hidden_size * MAPS * parameter.element_size()
    _compare(needed, free_memory(parameter.device), height, width, frames)
    _compare(3 * clips * frames * height * width, free_memory(torch.device("cpu")), height, width, frames)


def _compare(needed: int, free: int, height: int, width: int, frames: int) -> None:
    if needed > free:
        raise UserError(
            f"size {height}x{width}, {frames} frames: needs at least {needed / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free; "
            "ask for a smaller size or fewer frames"
        )


def tiling_for(asked: Tiles, vae: VideoVAE, size: tuple[int, int], clips: int) -> Tiling | None:
    """`asked`, and for `auto`: none where whole frames fit in the free memory, else the largest tiles that do, which is logged."""
    if asked != AUTO:
        return asked
    free = free_memory(vae.shift.device)
    tiling = _fitting(vae, size, clips, SHARE * free)
    if tiling:
        _say(
            f"{size[0]}x{size[1]}", f"{tiling.height}x{tiling.width}", f"{vae_bytes(vae, size, size, clips) / 1e9:.2g}", f"{free / 1e9:.2g}"
        )
    return tiling


def _fitting(vae: VideoVAE, size: tuple[int, int], clips: int, free: float) -> Tiling | None:
    parts = 1
    while True:
        tile = tuple(-(-(side + (parts - 1) * OVERLAP) // (16 * parts)) * 16 for side in size)
        fits = vae_bytes(vae, size, (tile[0], tile[1]), clips) <= free
        if fits or min(tile) < SMALLEST_TILE:
            return Tiling(tile[0], tile[1], OVERLAP) if parts > 1 else None
        parts += 1


@lru_cache(maxsize=16)
def _say(frame: str, tile: str, needed: str, free: str) -> None:
    logger.warning("VAE: frames of %s in tiles of %s: whole ones take up to %s GB of memory, %s GB are free", frame, tile, needed, free)


def vae_bytes(vae: VideoVAE, size: tuple[int, int], tile: tuple[int, int], clips: int = 1) -> int:
    """Upper estimate of what encoding or decoding takes beside the weights, window by window, each frame in tiles of that size."""
    config, area = vae.config, tile[0] * tile[1]
    window = CHUNK * clips * config.decode_window
    features = window * config.feature_channels * area // 64
    trunk = TRUNK_MAPS * vae.trunk_frames(area) * config.base_channels * area
    pixels = 3 * window * (size[0] * size[1] + area)
    return int((max(TEMPORAL_MAPS * features, features + trunk) + pixels) * vae.shift.element_size())


@contextmanager
def memory_explained(what: str) -> Iterator[None]:
    """Where memory runs out inside: a UserError of one line."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(_ran_out(what)) from error
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise UserError(_ran_out(what)) from error


def _ran_out(what: str) -> str:
    return f"{what}: memory ran out; ask for a smaller size or fewer frames, --precision bf16, or smaller tiles of the VAE (--tile)"
