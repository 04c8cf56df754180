"""Black borders (letterbox, pillarbox): found on the whole clip, cut off before anything else is measured."""

from __future__ import annotations

from functools import reduce

import cv2
import numpy as np

from mugv.curation.scores.base import Box, Clip, spread
from mugv.recipe.curation import Curation

COARSE = 60
"""Short side of the first look, which most clips do not pass."""
SIDE = 720
"""Short side at which the edge is found."""
FRAMES = 3
BLACK = 8
"""Mean luma of a line of border: black and what a coder makes of it."""
SPECK = 48
"""Brightest pixel of such a line: ringing beside the picture."""
STEP = 8
"""How much brighter the picture is than the border just inside the edge; a dark scene that fades out is no border."""
LEAST = 0.015
"""Thinner borders, as a share of the side, are left alone."""
SPARE = 2
"""Pixels cut off beyond the edge, where the coder has mixed picture and border."""


def find_borders(clip: Clip, settings: Curation) -> Box | None:
    """What black borders that stay through the clip leave of the picture, sizes even; None when there are none.

    `settings.border` limits nothing here: whether to crop or reject is the caller's business.
    """
    numbers = spread(clip.count, FRAMES)
    if not _any_black([clip.luma(k, COARSE) for k in numbers]):
        return None
    brightest = _brightest([clip.luma(k, SIDE) for k in numbers])
    height, width = brightest.shape
    top, bottom = _edges(brightest, 1)
    left, right = _edges(brightest[top : height - bottom], 0)
    if not (top or bottom or left or right):
        return None
    return _box((left, top, width - right, height - bottom), (height, width), clip.size)


def border_share(box: Box | None, size: tuple[int, int]) -> float:
    """Share of a picture (height, width) that lies outside the box."""
    return 0.0 if box is None else 1 - box[2] * box[3] / (size[0] * size[1])


def _any_black(frames: list[np.ndarray]) -> bool:
    """Whether the first or last line on any side is black in all frames, and the picture is not."""
    brightest = _brightest(frames)
    lines = (brightest[0], brightest[-1], brightest[:, 0], brightest[:, -1])
    return bool(cv2.mean(brightest)[0] > BLACK and min(float(line.mean()) for line in lines) <= BLACK)


def _brightest(frames: list[np.ndarray]) -> np.ndarray:
    return reduce(cv2.max, frames)


def _edges(brightest: np.ndarray, axis: int) -> tuple[int, int]:
    """Lines of border at the start and at the end; axis 1: rows, 0: columns. A dark scene hides an edge: then the other's mirror."""
    mean = cv2.reduce(brightest, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel()
    most = brightest.max(axis=axis)
    black = (mean <= BLACK) & (most <= SPECK)
    if black.all():
        return 0, 0
    runs = int(np.argmin(black)), int(np.argmin(black[::-1]))
    first, last = _run(mean, runs[0]), _run(mean[::-1], runs[1])
    if not first and last and runs[0] >= last:
        first = last
    elif not last and first and runs[1] >= first:
        last = first
    return first, last


def _run(mean: np.ndarray, length: int) -> int:
    """`length` of black lines from the first one; 0 when they are few or do not end in a step."""
    inside = mean[length : length + max(4, len(mean) // 60)]
    step = float(inside.max()) - float(mean[:length].mean()) if length else 0.0
    return length if length >= LEAST * len(mean) and step >= STEP else 0


def _box(edges: tuple[int, int, int, int], shape: tuple[int, int], size: tuple[int, int]) -> Box:
    """Edges (left, top, right, bottom) in the measured picture to a box in source pixels, inside the edges."""
    scale_x, scale_y = size[1] / shape[1], size[0] / shape[0]
    left, top = (0 if not v else _even_up(v * s + SPARE) for v, s in ((edges[0], scale_x), (edges[1], scale_y)))
    right = size[1] if edges[2] == shape[1] else edges[2] * scale_x - SPARE
    bottom = size[0] if edges[3] == shape[0] else edges[3] * scale_y - SPARE
    return left, top, int(right - left) // 2 * 2, int(bottom - top) // 2 * 2


def _even_up(value: float) -> int:
    return int(np.ceil(value / 2)) * 2
