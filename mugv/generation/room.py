"""What fits in memory: clips that no machine here can sample are refused at once, and the VAE takes a frame in tiles where it must.

Figures are for refusing and choosing, not for planning: a lower bound of what sampling needs, an upper one of what the VAE does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psutil
import torch

from mugv.dit.model import MugDiT
from mugv.errors import UserError
from mugv.vae import CHUNK, Tiling, VideoVAE

Tiles = Tiling | Literal["auto"] | None
AUTO: Literal["auto"] = "auto"
MAPS = 12
"""Maps [tokens, width] that a block of the DiT holds at once, at least: the stream, the MLP's 4 + 4, queries, keys, values."""
TRUNK_MAPS, TEMPORAL_MAPS = 7.0, 3.0
"""Maps at full resolution of `base_channels`, and maps of a window's features, that the VAE holds at its peak, at most (measured)."""
SHARE = 0.8
"""Of the free memory; the rest is left to what the estimate does not know."""
OVERLAP = 64
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
    """`asked`, and for `auto`: none where whole frames fit in the free memory, else the largest tiles that do."""
    if asked != AUTO:
        return asked
    free = SHARE * free_memory(vae.shift.device)
    for parts in range(1, 1 + min(size) // (4 * OVERLAP)):
        height, width = (-(-(side + (parts - 1) * OVERLAP) // (16 * parts)) * 16 for side in size)
        if vae_bytes(vae, height, width, clips) <= free:
            return Tiling(height, width, OVERLAP) if parts > 1 else None
    return Tiling(4 * OVERLAP, 4 * OVERLAP, OVERLAP) if min(size) >= 4 * OVERLAP else None


def vae_bytes(vae: VideoVAE, height: int, width: int, clips: int = 1) -> int:
    """Upper estimate of the activations of encoding or decoding a frame (or tile) of that size, one window at a time."""
    config = vae.config
    trunk = TRUNK_MAPS * vae.trunk_frames(height * width) * config.base_channels * height * width
    window = CHUNK * clips * config.decode_window
    temporal = TEMPORAL_MAPS * window * config.feature_channels * (height // 8) * (width // 8)
    pixels = 3 * window * height * width
    return int((trunk + temporal + pixels) * vae.shift.element_size())


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
