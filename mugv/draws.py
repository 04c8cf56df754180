"""Random generators of torch as functions of whole numbers, and seeds of a run's parts: no two draw alike.

torch seeds its CPU generator with 32 bits, of which some pairs among a few hundred thousand agree: a seed's draws were its neighbour's in
another order, and error bars over seeds meant nothing. Here all 624 words of the Mersenne Twister's state come from the numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

_WORDS = slice(24, 24 + 8 * 624)
"""Bytes of torch's generator state that hold the Mersenne Twister's words, as 64-bit integers."""


def generator_for(seed: int, step: int, rank: int, purpose: int = 0) -> torch.Generator:
    """A random generator that depends on nothing else. `purpose` keeps apart what one step draws twice."""
    return generator_of([seed, step, rank, purpose])


def generator_of(numbers: Sequence[int]) -> torch.Generator:
    """A generator whose whole state is made from all bits of some whole numbers >= 0."""
    words = np.random.SeedSequence(list(numbers)).generate_state(624)
    generator = torch.Generator()
    state = generator.get_state()
    state[_WORDS].view(torch.int64).copy_(torch.from_numpy(words.astype(np.int64)))
    return generator.set_state(state)


def generator_named(name: str) -> torch.Generator:
    """A generator that depends on a name alone, such as a tensor's."""
    return generator_of(np.frombuffer(hashlib.sha256(name.encode()).digest(), np.uint32).tolist())


def seed_of(seed: int, *names: str | int) -> int:
    """The seed of a part of a run, 48 bits: sums such as seed + 1000 k would give one run's stages another run's draws."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()[:6], "big")
