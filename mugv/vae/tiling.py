"""How a long or large video is cut into pieces, and how the results of pieces that overlap are blended.

Legend: n positions along an axis; B clips, C channels, T frames, H W rows and columns. Lengths are in latents (one is 8 x 8
pixels and 8 frames) unless they say pixels or frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mugv.errors import UserError

PIXELS = 8
"""Pixels of a latent along each side."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Tiling:
    """Frames larger than `height` x `width` pixels pass the net in tiles of at most that size that share `overlap` pixels.

    Sides are multiples of 16, the overlap is a multiple of 8 and at most half a tile; UserError otherwise.
    """

    height: int
    width: int
    overlap: int = 64

    def __post_init__(self) -> None:
        shorter = min(self.height, self.width)
        if shorter < 16 or self.height % 16 or self.width % 16:
            raise UserError(f"tile sides are positive multiples of 16 pixels, got {self.height} x {self.width}")
        if self.overlap % PIXELS or not 0 <= self.overlap <= shorter // 2:
            raise UserError(f"a tile's overlap is a multiple of 8 pixels from 0 to {shorter // 2} (half a tile), got {self.overlap}")

    def tiles(self, height: int, width: int) -> list[tuple[Span, Span]]:
        """Rows and columns of each tile over a map of height x width latents: as few as possible, as even as possible."""
        sides = ((height, self.height), (width, self.width))
        rows, columns = (even_spans(n, limit // PIXELS, self.overlap // PIXELS) for n, limit in sides)
        return [(r, c) for r in rows for c in columns]


def spans(n: int, length: int, overlap: int) -> list[Span]:
    """Pieces [start, stop) that cover n positions, each sharing `overlap` with the one before; the last may be shorter."""
    starts = range(0, max(1, n - overlap), length - overlap)
    return [(start, min(start + length, n)) for start in starts]


def even_spans(n: int, limit: int, overlap: int) -> list[Span]:
    """Spans of at most `limit`; a thin last one would be a poor picture, so all are shortened alike."""
    count = len(spans(n, limit, overlap))
    return spans(n, max(2 * overlap, -(-(n + (count - 1) * overlap) // count)), overlap)


def ramp(overlap: int, like: Tensor) -> Tensor:
    """Weights [overlap] of the later of two pieces where they overlap; the earlier one has the rest to 1."""
    return ((torch.arange(overlap, device=like.device) + 0.5) / max(1, overlap)).to(like.dtype)


def tiled(net: Callable[[Tensor], Tensor], x: Tensor, into: int, out: int, tiling: Tiling | None) -> Tensor:
    """net(x) [B, C, T, H, W] by tiles over the frame, blended linearly; a latent is `into` positions of x and `out` of the result.

    Exactly net(x) where one tile covers the frame. Otherwise it differs: the net's GroupNorms and the trunk's attention see
    a tile in place of the frame, and zeros beyond its border; the overlap hides the seams.
    """
    height, width = x.shape[3] // into, x.shape[4] // into
    tiles = tiling.tiles(height, width) if tiling else []
    if tiling is None or len(tiles) == 1:
        return net(x)
    whole, shared = torch.empty(0), tiling.overlap // PIXELS * out
    for rows, columns in tiles:
        part = net(x[..., rows[0] * into : rows[1] * into, columns[0] * into : columns[1] * into])
        if whole.ndim == 1:
            whole = part.new_zeros(*part.shape[:3], height * out, width * out)
        part = part * _weight(rows, height, shared, part.shape[3], part)[:, None]
        part *= _weight(columns, width, shared, part.shape[4], part)
        whole[..., rows[0] * out : rows[1] * out, columns[0] * out : columns[1] * out] += part
    return whole


def _weight(span: Span, n: int, shared: int, size: int, like: Tensor) -> Tensor:
    """Weights [size] of a tile along one axis: ramps over what it shares with a neighbour, 1 elsewhere."""
    weight = torch.ones(size, device=like.device, dtype=like.dtype)
    if shared and span[0] > 0:
        weight[:shared] = ramp(shared, like)
    if shared and span[1] < n:
        weight[-shared:] = 1 - ramp(shared, like)
    return weight


def crossfade(blocks: Iterable[Tensor], shared: int) -> Iterator[Tensor]:
    """Blocks [B, C, T, H, W] whose first `shared` frames are the last of the one before -> blocks that follow each other."""
    if shared == 0:
        yield from blocks
        return
    tail: Tensor | None = None
    for block in blocks:
        if tail is not None:
            yield torch.lerp(tail, block[:, :, :shared], ramp(shared, block)[:, None, None])
            block = block[:, :, shared:]
        tail = block[:, :, -shared:].clone()
        if block.shape[2] > shared:
            yield block[:, :, :-shared]
    if tail is not None:
        yield tail


def regroup(blocks: Iterable[Tensor], frames: int, first: int, size: int) -> Iterator[Tensor]:
    """Blocks [B, C, n, H, W] of any n -> blocks of `first`, then `size` frames, the last with what is left.

    UserError when the blocks do not hold exactly `frames` frames, or differ in anything but their number.
    """
    held: list[Tensor] = []
    seen, done, wanted, shape = 0, 0, min(first, frames), None
    for block in blocks:
        rest = (*block.shape[:2], *block.shape[3:])
        shape = shape or rest
        seen += block.shape[2]
        if rest != shape or seen > frames:
            raise UserError(f"a stream of {frames} frames of {list(shape)} brought {list(block.shape)}, frame {seen}")
        held.append(block)
        del block
        while wanted and seen - done >= wanted:
            joined = held[0] if len(held) == 1 else torch.cat(held, dim=2)
            yield joined[:, :, :wanted]
            held = [joined[:, :, wanted:]] if joined.shape[2] > wanted else []
            done += wanted
            wanted = min(size, frames - done)
    if seen < frames:
        raise UserError(f"a stream of {frames} frames ended after {seen}")
