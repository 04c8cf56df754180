"""Which clips may be the same: pairs of near codes or near embeddings, found with faiss in far less than all comparisons.

Up to FLAT codes every one is compared (exact). Above, codes are put into cells around codes evenly drawn from the set and
only the nearest cells are searched: near-linear time, and no training whose sums could come out otherwise elsewhere.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from mugv.curation.hashing import CODE_BYTES

FLAT = 60_000
CELLS_PER_ROOT = 4
"""Cells: so many times the square root of the number of codes."""
PROBES = 64
NEAREST = 48
"""Neighbours looked at of each code: a clip with more copies than this is still found through the copies' original."""


def near_codes(codes: np.ndarray, owner: np.ndarray, asked: np.ndarray, radius: int) -> np.ndarray:
    """Pairs of clips [P, 2] (smaller number first, sorted, each once) with codes at most `radius` bits apart.

    codes: uint8 [C, CODE_BYTES]; owner: clip of each code [C]; asked: numbers of the codes to ask for.
    """
    index: Any = faiss.IndexBinaryFlat(8 * CODE_BYTES)
    if len(codes) > FLAT:
        cells, pivots = _cells(codes)
        index.add(pivots)
        # faiss keeps a pointer to the quantizer: it must outlive the index.
        quantizer, index = index, faiss.IndexBinaryIVF(index, 8 * CODE_BYTES, cells)
        index.own_fields, index.is_trained, index.nprobe = False, True, PROBES
        assert quantizer.ntotal == cells
    index.add(codes)
    found, numbers = index.search(codes[asked], min(NEAREST, len(codes)))
    return _pairs(owner[asked], numbers, found <= radius, owner)


def near_vectors(vectors: np.ndarray, least: float) -> np.ndarray:
    """Pairs [P, 2], as near_codes, of unit vectors (float32 [N, D]) whose cosine is `least` or more."""
    count, width = vectors.shape
    index: Any = faiss.IndexFlatIP(width)
    if count > FLAT:
        cells, pivots = _cells(vectors)
        index.add(pivots)
        quantizer, index = index, faiss.IndexIVFFlat(index, width, cells, faiss.METRIC_INNER_PRODUCT)
        index.own_fields, index.is_trained, index.nprobe = False, True, PROBES
        assert quantizer.ntotal == cells
    index.add(vectors)
    found, numbers = index.search(vectors, min(NEAREST, count))
    everyone = np.arange(count)
    return _pairs(everyone, numbers, found >= least, everyone)


def _cells(rows: np.ndarray) -> tuple[int, np.ndarray]:
    """How many cells, and the rows that they stand around."""
    cells = int(CELLS_PER_ROOT * len(rows) ** 0.5)
    return cells, np.ascontiguousarray(rows[np.linspace(0, len(rows) - 1, cells).round().astype(int)])


def _pairs(asking: np.ndarray, numbers: np.ndarray, near: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Each unordered pair of different clips once, sorted."""
    near = near & (numbers >= 0)
    first = np.broadcast_to(asking[:, None], numbers.shape)[near]
    second = owner[numbers[near]]
    pairs = np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
