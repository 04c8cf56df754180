"""Black borders: found on the whole clip, cut off before anything else is measured."""

from __future__ import annotations

import numpy as np

from mugv.curation.scores.base import Box, Clip, spread
from mugv.recipe.curation import Curation

SIDE = 1080
FRAMES = 3
BLACK = 24
"""Luma up to which a pixel may be border (16 is black in most files, rgb range 0)."""
LEAST = 0.02
"""A border thinner than this share of the side is left alone."""


def find_borders(clip: Clip, settings: Curation) -> Box | None:
    """What the black borders leave, even pixels; None when there are none. `settings` is kept for thresholds to come."""
    most = np.max(np.stack([clip.luma(k, SIDE) for k in spread(clip.count, FRAMES)]), axis=0)
    if most.max() <= BLACK:
        return None
    height, width = clip.size
    scale = width / most.shape[1]
    top, bottom = _content(np.percentile(most, 98, axis=1))
    left, right = _content(np.percentile(most[top:bottom], 98, axis=0))
    edges = [round(v * scale) for v in (left, top, right, bottom)]
    if max(edges[0], width - edges[2]) < LEAST * width and max(edges[1], height - edges[3]) < LEAST * height:
        return None
    x0, y0 = -(-edges[0] // 2) * 2, -(-edges[1] // 2) * 2
    return x0, y0, (edges[2] - x0) // 2 * 2, (edges[3] - y0) // 2 * 2


def border_share(box: Box | None, size: tuple[int, int]) -> float:
    """Share of a picture (height, width) that lies outside the box."""
    return 0.0 if box is None else 1 - box[2] * box[3] / (size[0] * size[1])


def _content(levels: np.ndarray) -> tuple[int, int]:
    """First and one past the last line that is not black."""
    found = np.flatnonzero(levels > BLACK)
    return (int(found[0]), int(found[-1]) + 1) if found.size else (0, levels.size)
