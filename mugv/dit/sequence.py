"""How clips lie on the token axis, and which part of it this rank holds.

Batched: B clips of one grid side by side, [S, B, D]. Packed: clips of several grids one after the other, B = 1. Each clip is
start token, frames, end token. The axis is padded at its end so that context ranks, and tensor ranks under sequence parallelism,
hold equal parts: context parallelism cuts it first, sequence parallelism cuts each part again.

    padded axis  | clip 0 | clip 1 | pad |
    chunk        what one context rank holds; attention and its linears see it whole
    local        what one rank holds between the linears
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from mugv.dit.rope import rope_table

Grid = tuple[int, int, int]
"""Latent frames, rows and columns of a clip, in patches."""


@dataclass(frozen=True)
class Span:
    """Queries [query_start, query_stop) of this rank attend to keys [key_start, key_stop)."""

    query_start: int
    query_stop: int
    key_start: int
    key_stop: int


@dataclass(frozen=True)
class TokenLayout:
    """`context` and `sequence`: (rank, size) of context parallelism and of sequence parallelism ((0, 1) without)."""

    grids: tuple[Grid, ...]
    context: tuple[int, int] = (0, 1)
    sequence: tuple[int, int] = (0, 1)

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """First and one past the last token of each clip."""
        ends = list(accumulate(t * h * w + 2 for t, h, w in self.grids))
        return list(zip([0, *ends[:-1]], ends, strict=True))

    @property
    def length(self) -> int:
        return self.bounds[-1][1]

    @property
    def padded(self) -> int:
        parts = self.context[1] * self.sequence[1]
        return -(-self.length // parts) * parts

    @property
    def chunk(self) -> tuple[int, int]:
        """This context rank's part of the padded axis."""
        size = self.padded // self.context[1]
        return self.context[0] * size, (self.context[0] + 1) * size

    @property
    def local(self) -> tuple[int, int]:
        """This rank's part of the padded axis."""
        size = self.padded // (self.context[1] * self.sequence[1])
        start = self.chunk[0] + self.sequence[0] * size
        return start, start + size

    def pieces(self, clip: int) -> tuple[slice, slice, slice]:
        """Which of the clip's start token [0, 1), its patches and its end token [0, 1) are local; empty slices where none is."""
        start, stop = self.bounds[clip]
        edges = ((start, start + 1), (start + 1, stop - 1), (stop - 1, stop))
        first, body, last = (_cut(self.local, edge) for edge in edges)
        return first, body, last

    @property
    def local_pad(self) -> int:
        """How many local tokens are padding."""
        return self.local[1] - max(self.local[0], min(self.length, self.local[1]))

    def rotation(self, head_dim: int, device: str) -> Tensor:
        """RoPE of the chunk as unit complex numbers, complex64 [S of the chunk, head_dim / 2]; padding is not turned."""
        return _rotation(self.grids, self.padded, self.chunk, head_dim, device)

    def self_spans(self, whole: bool) -> tuple[Span, ...]:
        """What attends to what in self-attention over full keys; `whole`: queries are the full axis, else this rank's chunk."""
        low, high = (0, self.padded) if whole else self.chunk
        return tuple(Span(max(a, low) - low, min(b, high) - low, a, b) for a, b in self.bounds if max(a, low) < min(b, high))

    def text_spans(self, lengths: tuple[int, ...]) -> tuple[Span, ...]:
        """Cross-attention of this rank's chunk to packed texts of these lengths."""
        low, high = self.chunk
        ends = list(accumulate(lengths))
        keys = zip([0, *ends[:-1]], ends, strict=True)
        return tuple(
            Span(max(a, low) - low, min(b, high) - low, k0, k1)
            for (a, b), (k0, k1) in zip(self.bounds, keys, strict=True)
            if max(a, low) < min(b, high)
        )


def _cut(local: tuple[int, int], part: tuple[int, int]) -> slice:
    """The piece of `part` inside `local`, counted from the start of `part`."""
    low, high = max(local[0], part[0]), min(local[1], part[1])
    return slice(low - part[0], max(low, high) - part[0]) if low < high else slice(0, 0)


@lru_cache(maxsize=32)
def _rotation(grids: tuple[Grid, ...], padded: int, chunk: tuple[int, int], head_dim: int, device: str) -> Tensor:
    tables = torch.cat([rope_table(*grid, head_dim) for grid in grids], 1)
    turned = torch.complex(tables[0], tables[1])
    pad = torch.ones(padded - len(turned), turned.shape[1], dtype=turned.dtype)
    return torch.cat([turned, pad])[chunk[0] : chunk[1]].to(device)
