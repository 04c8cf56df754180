"""Sharpness and motion of a clip, in the units that the recipe's thresholds have."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def shrink(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """Scaled down, never up, to the short side."""
    scale = short_side / min(rgb.shape[:2])
    if scale >= 1:
        return rgb
    return cv2.resize(rgb, (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))), interpolation=cv2.INTER_AREA)


def sharpness(rgb: np.ndarray, short_side: int) -> float:
    """Variance of the Laplacian of 8-bit levels (3x3 kernel, levels squared), mean over the three colour channels.

    Measured at `short_side`, or at the picture's own size when that is smaller: a picture is never scaled up, so sources
    smaller than `short_side` have the unit of their own size. Channels count alone, so that an edge between two colours of
    one brightness counts; on natural pictures the mean is near that of grey. Source: paper 2.1 (variance of Laplacian).
    """
    laplacian = cv2.Laplacian(shrink(rgb, short_side), cv2.CV_32F)
    return float(np.mean(cv2.meanStdDev(laplacian)[1] ** 2))


def motion(frames: Sequence[np.ndarray], short_side: int, gap: int, scale: float = 1.0) -> float:
    """Mean optical-flow magnitude over three pairs of frames (start, middle, end), pixels a pair at `short_side`.

    `gap` frames lie between the two of a pair; `scale` converts to the recipe's gap in seconds. Smaller pictures are not
    scaled up, their flow is. Flow is DIS, on the colour channel that changes most. Source: paper 2.1 (RAFT there).
    """
    gap = min(gap, len(frames) - 1)
    starts = (0, (len(frames) - 1 - gap) // 2, len(frames) - 1 - gap)
    unit = short_side / min(short_side, min(frames[0].shape[:2]))
    return scale * unit * float(np.mean([_flow(frames[k], frames[k + gap]) for k in starts]))


def _flow(first: np.ndarray, second: np.ndarray) -> float:
    change = cv2.absdiff(first, second).reshape(-1, 3).mean(axis=0)
    if change.max() == 0:
        return 0.0
    channel = int(change.argmax())
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    field = flow.calc(np.ascontiguousarray(first[..., channel]), np.ascontiguousarray(second[..., channel]), None)
    return float(cv2.magnitude(field[..., 0], field[..., 1]).mean())
