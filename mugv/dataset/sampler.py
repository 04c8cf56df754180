"""Which clips a step trains on: a pure function of (seed, step, rank), so that resuming needs no state."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def clips_of_step(count: int, batch: int, step: int, seed: int, rank: int = 0, world: int = 1, purpose: int = 0) -> list[int]:
    """Indices of this rank's `batch / world` clips at `step`. Every epoch is a new permutation; no clip is skipped or repeated
    within one, across ranks and steps. Lists of one step have a `purpose` each. ValueError when ranks would have unequal shares."""
    if batch % world:
        raise ValueError(f"batch {batch} must be a multiple of the {world} data-parallel ranks")
    local = batch // world
    first = step * batch + rank * local
    return [int(_permutation(count, position // count, seed, purpose)[position % count]) for position in range(first, first + local)]


@lru_cache(maxsize=4)
def _permutation(count: int, epoch: int, seed: int, purpose: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, purpose]).permutation(count)
