"""Motion: mean optical flow of three frame pairs, and how much it changes along the clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from mugv.curation.scores.base import Clip, Input, Once
from mugv.curation.scores.raft import raft_flow
from mugv.curation.scores.sharpness import SMALL
from mugv.recipe.curation import Motion as Settings

DIS_SIDE = 120
"""Short side at which larger pictures are compared: shifts of 0.3 to 60 pixels at short side 360 come out within 0.1 or 5 %."""

LEAST = 12
"""Pixels that a side has at least."""
LOW = 48
"""Rows under which a wide picture is searched standing: OpenCV counts its scales by the columns, and crashes where the rows run out."""
FAR = 0.1
"""Share of the short side from which on a jump of the whole picture is tried as a start."""
LONGEST_GAP = 0.0834
"""Seconds between the frames of a pair at most; a recipe's longer gap is scaled to, since over it a fast picture leaves its frame."""

Flow = Callable[[np.ndarray, np.ndarray], float]
"""Mean length of the flow between two pictures, pixels of these pictures."""


def motion(frames: Sequence[np.ndarray], short_side: int, gap: int, scale: float = 1.0) -> float:
    """Mean optical-flow magnitude over three pairs of frames (start, middle, end), pixels a pair at `short_side`.

    `gap` frames lie between the two of a pair; `scale` converts to the recipe's gap in seconds. Smaller pictures are not
    scaled up, their flow is. Source: paper 2.1 (RAFT there).
    """
    gap = min(gap, len(frames) - 1)
    unit = short_side / min(short_side, min(frames[0].shape[:2]))
    return scale * unit * float(np.mean([dis_flow(frames[k], frames[k + gap]) for k in pair_starts(len(frames), gap)]))


def pair_starts(count: int, gap: int) -> tuple[int, int, int]:
    """First frames of the pairs at the start, in the middle and at the end of a clip."""
    return 0, (count - 1 - gap) // 2, count - 1 - gap


def dis_flow(first: np.ndarray, second: np.ndarray) -> float:
    """Dense inverse search, of uint8 [h, w] or, on the channel that changes most, [h, w, 3]. Cheaper settings above a short side of 96.

    Where the whole picture jumps too far for the search, it starts from the jump: the peak of the phase correlation.
    """
    if first.ndim == 3:
        change = cv2.absdiff(first, second).reshape(-1, 3).mean(axis=0)
        channel = int(change.argmax())
        first, second = first[..., channel], second[..., channel]
    if np.array_equal(first, second):
        return 0.0
    if first.shape[0] < LOW and first.shape[1] > first.shape[0]:
        first, second = first.T, second.T
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    if min(first.shape) <= 96:
        return _length(cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(first, second, None))
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    field: np.ndarray = search.calc(first, second, None)
    jump = _jump(first, second)
    if math.hypot(*jump) > FAR * min(first.shape):
        begun = np.ascontiguousarray(np.broadcast_to(np.array(jump, np.float32), (*first.shape, 2)))
        led: np.ndarray = search.calc(first, second, begun)
        if _misfit(first, second, led) < _misfit(first, second, field):
            field = led
    return _length(field)


def _jump(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Displacement (x, y) of the picture as a whole, pixels; at half size, which is enough for a start."""
    size = (first.shape[1] // 2, first.shape[0] // 2)
    one, two = (cv2.resize(p, size, interpolation=cv2.INTER_AREA).astype(np.float32) for p in (first, second))
    x, y = cv2.phaseCorrelate(one, two, cv2.createHanningWindow(size, cv2.CV_32F))[0]
    return 2 * x, 2 * y


def _misfit(first: np.ndarray, second: np.ndarray, field: np.ndarray) -> float:
    """Mean difference that the flow leaves, levels, where it stays inside the picture; 255 when that is less than half of it."""
    rows, columns = np.indices(first.shape, np.float32)
    x, y = columns + field[..., 0], rows + field[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= first.shape[1] - 1) & (y <= first.shape[0] - 1)
    left = cv2.absdiff(first, cv2.remap(second, x, y, cv2.INTER_LINEAR))[inside]
    return float(left.mean()) if left.size > 0.5 * first.size else 255.0


def _length(field: np.ndarray) -> float:
    return float(cv2.magnitude(field[..., 0], field[..., 1]).mean())


class Pairs:
    """Flow of a clip's three pairs, pixels at the recipe's short side in the recipe's gap, whatever size the method works at."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        raft = settings.method == "raft"
        self.flow: Flow = raft_flow(settings) if raft else dis_flow
        side = settings.short_side
        if raft:
            self.input = Input("rgb", side, "pairs")
        else:
            self.input = Input("rgb", side, "pairs") if side <= SMALL else Input("luma", DIS_SIDE, "pairs")

    def __call__(self, clip: Clip) -> list[float]:
        """Empty for a clip of one frame, or smaller than the search can take."""
        if clip.count < 2 or min(clip.size) < LEAST:
            return []
        wanted, side = self.settings.gap_seconds, self.input.short_side
        gap = min(clip.count - 1, max(1, int(min(wanted, LONGEST_GAP) * clip.fps + 1e-6)))
        picture = clip.rgb if self.input.form == "rgb" else clip.luma
        starts = pair_starts(clip.count, gap)
        unit = self.settings.short_side / min(picture(0, side).shape[:2]) * wanted * clip.fps / gap
        return [unit * self.flow(picture(k, side), picture(k + gap, side)) for k in starts]


class Motion:
    """Mean optical flow over three frame pairs (start, middle, end), pixels at `short_side` in `gap_seconds`."""

    name = "motion"

    def __init__(self, pairs: Once[list[float]], wanted: Input) -> None:
        self.pairs, self.input = pairs, wanted

    def __call__(self, clip: Clip) -> float | None:
        flows = self.pairs(clip)
        return float(np.mean(flows)) if flows else None


class SpeedChange:
    """Octaves between the fastest and the slowest of motion's pairs: 0 steady, 2 where a clip gets four times as fast.

    Flow under half a pixel counts as half a pixel, so that noise on a still picture is no change.
    """

    name = "speed_change"

    def __init__(self, pairs: Once[list[float]], wanted: Input) -> None:
        self.pairs, self.input = pairs, wanted

    def __call__(self, clip: Clip) -> float | None:
        flows = [max(0.5, flow) for flow in self.pairs(clip)]
        return math.log2(max(flows) / min(flows)) if flows else None
