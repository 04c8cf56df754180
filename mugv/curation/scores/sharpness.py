"""Sharpness: variance of the Laplacian."""

from __future__ import annotations

import statistics

import cv2
import numpy as np

from mugv.curation.scores.base import Clip, Input, spread
from mugv.recipe.curation import Sharpness as Settings

SMALL = 160
"""Short side up to which colour is worth its cost; below it lie synthetic footage and thumbnails."""
FRAMES = 3
"""Frames that are measured of larger pictures; all frames of small ones."""


def shrink(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """Scaled down, never up, to the short side."""
    scale = short_side / min(rgb.shape[:2])
    if scale >= 1:
        return rgb
    return cv2.resize(rgb, (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))), interpolation=cv2.INTER_AREA)


def sharpness(picture: np.ndarray, short_side: int) -> float:
    """Variance of the Laplacian of 8-bit levels (3x3 kernel, levels squared), mean over the channels of [h, w] or [h, w, 3].

    Measured at `short_side`, or at the picture's own size when that is smaller: a picture is never scaled up, so sources
    smaller than `short_side` have the unit of their own size. Colour channels count alone, so that an edge between two colours of
    one brightness counts; on natural pictures the mean is near that of luma. Source: paper 2.1 (variance of Laplacian).
    """
    picture = shrink(picture, short_side)
    if picture.ndim == 2:
        whole = cv2.Laplacian(picture, cv2.CV_16S)
        return cv2.norm(whole, cv2.NORM_L2SQR) / whole.size - (cv2.sumElems(whole)[0] / whole.size) ** 2
    return float(np.mean(cv2.meanStdDev(cv2.Laplacian(picture, cv2.CV_32F))[1] ** 2))


class Sharpness:
    """Median over frames of the Laplacian's variance at `short_side`, levels squared.

    Up to a short side of 160 it is measured on the three colour channels of every frame, above it on the luma of three.
    """

    name = "sharpness"

    def __init__(self, settings: Settings) -> None:
        side = settings.short_side
        self.input = Input("rgb", side, "all") if side <= SMALL else Input("luma", side, FRAMES)

    def __call__(self, clip: Clip) -> float:
        side = self.input.short_side
        if self.input.form == "rgb":
            return statistics.median(sharpness(clip.rgb(k, side), side) for k in range(clip.count))
        return statistics.median(sharpness(clip.luma(k, side), side) for k in spread(clip.count, FRAMES))
