"""Camera shake and frozen pictures, from small frames."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from mugv.curation.scores.base import Clip, Input

SIDE = 60
"""Pixels of the short side at which frames are compared."""
UNIT = 360
"""Short side at which shake is stated."""
PAIRS = 12
"""Neighbouring frames that shake looks at, from the start of the clip."""
STILL = 1.5
"""Mean change of a block, levels, up to which it is the same picture: what a coder does to a still."""
BLOCK = 5
"""Side of that block, pixels of the small frame."""


class Shake:
    """Median length of the second difference of the picture's displacement, pixels at short side 360.

    A steady pan has none, and a moving object has none while the rest stands. Displacement is the peak of the phase correlation
    of neighbouring frames; the median forgives the pairs where it fails.
    """

    name = "shake"
    input = Input("luma", SIDE, "all")

    def __call__(self, clip: Clip) -> float | None:
        if clip.count < 3:
            return None
        frames = [clip.luma(k, SIDE).astype(np.float32) for k in range(min(clip.count, PAIRS + 1))]
        window = cv2.createHanningWindow(frames[0].shape[::-1], cv2.CV_32F)
        moved = np.array([cv2.phaseCorrelate(a, b, window)[0] for a, b in pairwise(frames)])
        jerk = np.linalg.norm(np.diff(moved, axis=0), axis=1)
        return float(np.median(jerk)) * UNIT / min(frames[0].shape)


class Freeze:
    """Longest run of frames that show the same picture, as a share of the clip, 0 to 1."""

    name = "freeze"
    input = Input("luma", SIDE, "all")

    def __call__(self, clip: Clip) -> float:
        frames = [clip.luma(k, SIDE) for k in range(clip.count)]
        longest, start = 1, 0
        for k in range(1, len(frames)):
            if change(frames[start], frames[k]) > STILL:
                start = k
            longest = max(longest, k - start + 1)
        return (longest - 1) / (len(frames) - 1) if len(frames) > 1 else 0.0


def change(first: np.ndarray, second: np.ndarray) -> float:
    """Mean change of the block that changes most, levels, between two uint8 [h, w]."""
    return float(cv2.blur(cv2.absdiff(first, second), (BLOCK, BLOCK)).max())
