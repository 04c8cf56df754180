"""Camera shake and frozen pictures, from small frames."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from mugv.curation.scores.base import Clip, Input, spread

SIDE = 90
"""Pixels of the short side at which frames are compared."""
UNIT = 360
"""Short side at which shake is stated."""
STILL = 2.0
"""Mean change in levels of a block of a small frame up to which it is the same picture: what an encoder does to a still."""
BLOCK = 10


class Shake:
    """Root mean square of the second difference of the picture's displacement, pixels at short side 360 a squared frame.

    A steady pan has none. Displacement is the peak of the phase correlation of neighbouring frames.
    """

    name = "shake"
    input = Input("luma", SIDE, "all")
    pairs = 24

    def __call__(self, clip: Clip) -> float | None:
        if clip.count < 3:
            return None
        frames = [clip.luma(k, SIDE).astype(np.float32) for k in range(min(clip.count, self.pairs + 1))]
        window = cv2.createHanningWindow(frames[0].shape[::-1], cv2.CV_32F)
        moved = np.array([cv2.phaseCorrelate(a, b, window)[0] for a, b in pairwise(frames)])
        jerk = np.diff(moved, axis=0) * UNIT / min(frames[0].shape)
        return float(np.sqrt(np.mean(np.sum(jerk**2, axis=1))))


class Freeze:
    """Longest run of frames that show the same picture, as a share of the clip, 0 to 1."""

    name = "freeze"
    input = Input("luma", SIDE, "all")

    def __call__(self, clip: Clip) -> float:
        frames = [cv2.resize(clip.luma(k, SIDE), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for k in spread(clip.count, 49)]
        longest, start = 1, 0
        for k in range(1, len(frames)):
            if change(frames[start], frames[k]) > STILL:
                start = k
            longest = max(longest, k - start + 1)
        return 0.0 if longest == 1 else longest / len(frames)


def change(first: np.ndarray, second: np.ndarray) -> float:
    """Mean change of the block that changes most, levels."""
    return float(cv2.blur(cv2.absdiff(first, second), (BLOCK // 2, BLOCK // 2)).max())
