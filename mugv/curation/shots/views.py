"""What the shot detectors see of a frame, and how alike two such views are once motion and light are taken out.

Two measures, after the colour-structure test of Koala-36M: the correlation of colour histograms, and a structural one. A pan,
a shake or a thing that moves changes every pixel and no structure, so structure is compared after one picture is warped onto
the other by optical flow, and in blocks that may have moved; a flash or a change of exposure is taken out by normalising.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import cv2
import numpy as np

from mugv.media.decode import Frame
from mugv.media.resize import halved

SIDE = 54
"""Short side, pixels, of a view."""
FLAT = 3.0
"""Standard deviation of luma, levels, under which a picture shows nothing."""
WHITE, WHITE_DETAIL = 180.0, 0.5
"""Mean level of the darkest channel, and share of the picture with any contrast, of one that a flash has whitened."""
BORDER = 20
"""Luma up to which a line of pixels may be black border."""
LOW = 48
"""Rows under which a wide picture is turned for the search of its flow; see mugv.curation.scores.motion."""
LETTERBOX = 8
"""Luma up to which a row may be a letterbox bar; a faded picture is brighter."""
BLOCK, SEARCH, STEP = 16, 12, 12
"""Blocks that are looked for in the other picture, how far, and their distance, pixels."""
STAYS, LEAST_SCENE, LEAST_GRAPHICS = 4.0, 0.3, 0.03
"""Graphics that stay: levels by which they may change, and shares of the picture that the scene under them and they themselves have."""
CELLS = (8, 6)
"""Columns and rows of the parts in which a leap is looked for."""
LEAST_SIDE = 24
"""Pixels of a picture in which such a part shows anything."""
LEAP, LEAPING, LARGEST_LEAP = 4.0, 4, 16.0
"""Levels of a cell beyond 1.5 times what it changes in any step nearby, the cells that do so, and what the largest of them leaps."""


class View:
    """A frame of [h, w] pixels, short side 54 (or the source's own)."""

    def __init__(self, frame: Frame) -> None:
        self.key = frame.key
        self.bgr = frame.bgr(SIDE)
        self.gray = cv2.cvtColor(self.bgr, cv2.COLOR_BGR2GRAY)
        first, end = _lit(self.gray)
        mean, spread = cv2.meanStdDev(self.gray[first:end])
        self.mean, self.spread = float(mean[0, 0]), float(spread[0, 0])
        """Of luma, without black borders."""

    @property
    def flat(self) -> bool:
        return self.spread < FLAT and float(cv2.meanStdDev(self.bgr)[1].max()) < 2 * FLAT

    @property
    def white(self) -> bool:
        """So bright, in all colours, that little of the scene shows."""
        return self.detail < WHITE_DETAIL and min(cv2.mean(self.bgr)[:3]) > WHITE

    @cached_property
    def detailed(self) -> np.ndarray:
        """bool [h, w], whose neighbourhood has any contrast."""
        gray = self.gray.astype(np.float32)
        mean = cv2.blur(gray, (5, 5))
        found: np.ndarray = cv2.blur(gray * gray, (5, 5)) - mean * mean > FLAT
        return found

    @cached_property
    def detail(self) -> float:
        """Share of the picture whose neighbourhood has any contrast, 0 to 1."""
        return float(self.detailed.mean())

    @cached_property
    def coarse(self) -> np.ndarray:
        """A quarter of the view's size, float64 [h / 4 * w / 4 * 3], around 0."""
        return halved(self.half).ravel().astype(np.float64) - 128

    @cached_property
    def half(self) -> np.ndarray:
        """uint8 [h / 2, w / 2, 3]."""
        return halved(self.bgr)

    @cached_property
    def histogram(self) -> np.ndarray:
        """float32 [8, 64] over blue, green and red, neighbouring bins mixed."""
        bins = cv2.calcHist([self.bgr], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
        return cv2.GaussianBlur(bins.reshape(8, 64), (0, 0), 0.7)


def change(first: View, second: View) -> float:
    """Root mean square difference, levels."""
    return cv2.norm(first.bgr, second.bgr) / float(np.sqrt(first.bgr.size))


def leaps(views: Sequence[View]) -> bool:
    """Whether parts of the picture leap from the third of six views in a row to the fourth and at no other step, light taken out.

    On footage with known truth (66 key frames inside of shots) the end of visible damage leaps in 2 to 40 cells of 48, by 8 to 77
    levels; other key frames in at most 2 cells, but flashes in up to 39, by at most 15 (a program not kept).
    """
    if min(views[0].gray.shape) < LEAST_SIDE:
        return False
    steps = [_cell_change(a, b) for a, b in pairwise(views)]
    leap = steps.pop(2) - 1.5 * np.max(steps, axis=0)
    return int((leap > LEAP).sum()) >= LEAPING and float(leap.max()) > LARGEST_LEAP


def _cell_change(first: View, second: View) -> np.ndarray:
    """Mean absolute difference float32 [rows, columns] of CELLS, the second's light and contrast made those of the first."""
    gain = (first.spread + 2) / (second.spread + 2)
    levelled = np.clip(second.gray.astype(np.float32) * gain + (first.mean - second.mean * gain), 0, 255)
    return cv2.resize(cv2.absdiff(first.gray.astype(np.float32), levelled), CELLS, interpolation=cv2.INTER_AREA)


def colour(first: View, second: View) -> float:
    """Correlation of the colour histograms, 1 for the same colours."""
    return float(cv2.compareHist(first.histogram, second.histogram, cv2.HISTCMP_CORREL))


def structure(first: View, second: View, where: np.ndarray | None = None) -> float:
    """About 1 for one scene however it moved, 0.5 and less for two scenes, 0 when one of them shows nothing.

    `where`: float32 [h, w], 1 for what counts.
    """
    if first.flat or second.flat:
        return 0.0
    if where is not None:
        return 0.5 * warped_likeness(first.gray, second.gray, where) + 0.5 * _blocks(first.gray, second.gray, where)
    a, b = _without_borders(first.gray, second.gray)
    return 0.5 * warped_likeness(a, b) + 0.5 * _blocks(a, b)


@dataclass(frozen=True)
class Region:
    """What changes at one step under graphics that stay."""

    where: np.ndarray
    """float32 [h, w], 1 for what changes."""
    size: float
    """Mean absolute difference there, levels."""
    sudden: float
    """The same in units of what changes there at the steps beside."""


def changed_region(views: Sequence[View]) -> Region | None:
    """Of four views in a row, where the picture changes at the middle step and not so at one beside it.

    None where that is too little to be a scene, or what stays shows nothing.
    """
    before, step, after = (cv2.blur(cv2.absdiff(a.gray, b.gray).astype(np.float32), (5, 5)) for a, b in pairwise(views))
    changes = step > STAYS + 1.5 * np.minimum(before, after)
    if changes.mean() < LEAST_SCENE or (views[1].detailed & ~changes).mean() < LEAST_GRAPHICS:
        return None
    beside = max(float(before[changes].mean()), float(after[changes].mean()))
    size = float(step[changes].mean())
    return Region(changes.astype(np.float32), size, size / (beside + 0.3))


def warped_likeness(first: np.ndarray, second: np.ndarray, where: np.ndarray | None = None) -> float:
    """Local correlation of two luma pictures [h, w] after the second is moved onto the first by optical flow."""
    a, b = _levelled(first), _levelled(second)
    field = flow_between(a, b)
    x, y = grid(*a.shape)
    moved = cv2.remap(b, x + field[..., 0], y + field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _local_correlation(a, moved, where)


def flow_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Optical flow float32 [h, w, 2], pixels; zero for pictures too small for it."""
    if min(first.shape) < 16:
        return np.zeros((*first.shape, 2), np.float32)
    if first.shape[0] < LOW and first.shape[1] > first.shape[0]:
        # OpenCV's search crashes on wide pictures of few rows, not on high ones of few columns.
        turned = flow_between(np.ascontiguousarray(first.T), np.ascontiguousarray(second.T))
        return np.ascontiguousarray(turned.transpose(1, 0, 2)[..., ::-1])
    # A new object each time: OpenCV's keeps buffers of the last size, and with another size its results were seen to change.
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(first, second, None)


@lru_cache(maxsize=8)
def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of every pixel, float32 [h, w] each."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def _levelled(gray: np.ndarray) -> np.ndarray:
    """Mean 128, standard deviation 40: what exposure did is undone."""
    mean, spread = cv2.meanStdDev(gray)
    gain = 40 / (float(spread[0, 0]) + 2)
    shifted = gray.astype(np.float32) * gain + (128 - float(mean[0, 0]) * gain)
    return np.clip(shifted, 0, 255).astype(np.uint8)


def _local_correlation(first: np.ndarray, second: np.ndarray, where: np.ndarray | None, side: int = 9) -> float:
    a, b = first.astype(np.float32), second.astype(np.float32)

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (side, side))

    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = np.maximum(mean(a * a) - mean_a * mean_a, 0), np.maximum(mean(b * b) - mean_b * mean_b, 0)
    weight = np.sqrt(spread_a * spread_b)
    alike = np.maximum(mean(a * b) - mean_a * mean_b, -weight)
    if where is not None:
        alike, weight = alike * where, weight * where
    return float(alike.sum() / (weight.sum() + 1e-3 * weight.size))


def _blocks(first: np.ndarray, second: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean best correlation of the second picture's blocks in the first, by contrast; 0 when no block shows anything."""
    height, width = first.shape
    found, weights = [], []
    for y in range(2, height - BLOCK - 1, STEP):
        for x in range(2, width - BLOCK - 1, STEP):
            block = second[y : y + BLOCK, x : x + BLOCK]
            spread = float(cv2.meanStdDev(block)[1][0, 0])
            if spread < 2 or (where is not None and where[y : y + BLOCK, x : x + BLOCK].mean() < 0.5):
                continue
            area = first[max(0, y - SEARCH) : y + BLOCK + SEARCH, max(0, x - SEARCH) : x + BLOCK + SEARCH]
            found.append(min(1.0, float(cv2.matchTemplate(area, block, cv2.TM_CCOEFF_NORMED).max())))
            weights.append(min(spread, 20.0))
    return float(np.average(found, weights=weights)) if found else 0.0


def _lit(gray: np.ndarray) -> tuple[int, int]:
    """The rows, half open, between letterbox bars, without those that scaling mixed with a bar; all of them when all are black."""
    height = gray.shape[0]
    rows = np.flatnonzero(gray.max(axis=1) > LETTERBOX)
    if rows.size < 8:
        return 0, height
    return int(rows[0]) + (2 if rows[0] else 0), int(rows[-1]) + 1 - (2 if rows[-1] < height - 1 else 0)


def _without_borders(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without the black lines at the edges that they share: these never change, whatever the scene."""
    most = cv2.max(first, second)
    rows, columns = np.flatnonzero(most.max(axis=1) > BORDER), np.flatnonzero(most.max(axis=0) > BORDER)
    if rows.size == 0 or columns.size == 0 or rows[-1] - rows[0] < 24 or columns[-1] - columns[0] < 24:
        return first, second
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(first[box]), np.ascontiguousarray(second[box])
