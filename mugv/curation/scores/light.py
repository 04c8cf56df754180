"""Exposure, contrast and saturation of a clip."""

from __future__ import annotations

import cv2
import numpy as np

from mugv.curation.scores.base import Clip, Input, spread

SIDE, FRAMES = 60, 3


class Exposure:
    """Mean luma, 0 (black) to 255 (white), mean over frames."""

    name = "exposure"
    input = Input("luma", SIDE, FRAMES)

    def __call__(self, clip: Clip) -> float:
        return float(np.mean([cv2.mean(clip.luma(k, SIDE))[0] for k in spread(clip.count, FRAMES)]))


class Contrast:
    """Luma levels between the 5th and the 95th percentile of the picture, 0 to 255, mean over frames."""

    name = "contrast"
    input = Input("luma", SIDE, FRAMES)

    def __call__(self, clip: Clip) -> float:
        return float(np.mean([levels(clip.luma(k, SIDE)) for k in spread(clip.count, FRAMES)]))


def levels(luma: np.ndarray) -> float:
    """Width of the middle 90 % of an 8-bit picture's histogram."""
    share = np.cumsum(np.bincount(luma.ravel(), minlength=256)) / luma.size
    return float(np.searchsorted(share, 0.95) - np.searchsorted(share, 0.05))


class Saturation:
    """Mean of max(R, G, B) - min(R, G, B), 0 (grey) to 255, mean over frames. Dark pixels cannot be saturated by noise."""

    name = "saturation"
    input = Input("bgr", SIDE, FRAMES)

    def __call__(self, clip: Clip) -> float:
        return float(np.mean([colourfulness(clip.bgr(k, SIDE)) for k in spread(clip.count, FRAMES)]))


def colourfulness(bgr: np.ndarray) -> float:
    """Of uint8 [h, w, 3], channels in any order."""
    red, green, blue = cv2.split(bgr)
    most, least = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return float(cv2.mean(cv2.subtract(most, least))[0])
