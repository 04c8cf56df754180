"""Blockiness: steps on the coder's 8x8 grid."""

from __future__ import annotations

import cv2
import numpy as np

from mugv.curation.scores.base import Clip, Input, spread

SIDE = 1080
"""Pictures up to this short side are measured at their own size: scaling wipes the grid out."""
FRAMES = 2
GRID = 8
FLOOR = 0.5
"""Levels added to both steps, so that a smooth picture has no blocks."""


class Blockiness:
    """Mean step between neighbouring pixels on the 8x8 grid over the mean step elsewhere: 1 without blocks. None above 1080 lines."""

    name = "blockiness"
    input = Input("luma", SIDE, FRAMES, SIDE)

    def __call__(self, clip: Clip) -> float | None:
        if min(clip.info.height, clip.info.width) > SIDE:
            return None
        return float(np.mean([blockiness(clip.luma(k, SIDE)) for k in spread(clip.count, FRAMES)]))


def blockiness(luma: np.ndarray) -> float:
    """Of [h, w] uint8; the grid may start anywhere, since pictures are cropped."""
    across = cv2.reduce(cv2.absdiff(luma[:, 1:], luma[:, :-1]), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / luma.shape[0]
    down = cv2.reduce(cv2.absdiff(luma[1:], luma[:-1]), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / luma.shape[1]
    return float(np.sqrt(_on_grid(across) * _on_grid(down)))


def _on_grid(steps: np.ndarray) -> float:
    """Step on the phase of the grid that stands out most, over the median of the others."""
    whole = steps[: max(GRID, steps.size // GRID * GRID)]
    if whole.size < GRID:
        return 1.0
    phases = np.sort(whole.reshape(-1, GRID).mean(axis=0))
    return float((phases[-1] + FLOOR) / (np.median(phases[:-1]) + FLOOR))
