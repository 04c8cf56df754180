"""The noise that a clip starts from, a function of its seed alone: the same on every machine and in every batch."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from mugv.draws import generator_of
from mugv.errors import UserError

SEEDS = 1 << 64


def check_seeds(seeds: Sequence[int]) -> None:
    """UserError unless every seed is a whole number from 0 to 2^64 - 1."""
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < SEEDS:
            raise UserError(f"seed {seed}: must be a whole number from 0 to {SEEDS - 1}")


def noise_of(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal fp32 of `shape`. torch's own generator takes the low 32 bits of a seed; all 64 count here."""
    generator = torch.Generator().manual_seed(int(seed)) if seed < 1 << 32 else generator_of([int(seed)])
    return torch.randn(tuple(shape), generator=generator)
