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
    """Dense inverse search, of uint8 [h, w] or, on the channel that changes most, [h, w, 3]. Cheaper settings above a short side of 96."""
    if first.ndim == 3:
        change = cv2.absdiff(first, second).reshape(-1, 3).mean(axis=0)
        channel = int(change.argmax())
        first, second = first[..., channel], second[..., channel]
    if np.array_equal(first, second):
        return 0.0
    preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if min(first.shape) <= 96 else cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
    field: np.ndarray = cv2.DISOpticalFlow.create(preset).calc(np.ascontiguousarray(first), np.ascontiguousarray(second), None)
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
        wanted, side = self.settings.gap_seconds, self.input.short_side
        gap = min(clip.count - 1, max(1, round(wanted * clip.fps)))
        picture = clip.rgb if self.input.form == "rgb" else clip.luma
        starts = pair_starts(clip.count, gap)
        unit = self.settings.short_side / min(picture(0, side).shape[:2]) * wanted * clip.fps / gap
        return [unit * self.flow(picture(k, side), picture(k + gap, side)) for k in starts]


class Motion:
    """Mean optical flow over three frame pairs (start, middle, end), pixels at `short_side` in `gap_seconds`."""

    name = "motion"

    def __init__(self, pairs: Once[list[float]], wanted: Input) -> None:
        self.pairs, self.input = pairs, wanted

    def __call__(self, clip: Clip) -> float:
        return float(np.mean(self.pairs(clip)))


class SpeedChange:
    """Octaves between the fastest and the slowest of motion's pairs: 0 steady, 2 where a clip gets four times as fast.

    Flow under half a pixel counts as half a pixel, so that noise on a still picture is no change.
    """

    name = "speed_change"

    def __init__(self, pairs: Once[list[float]], wanted: Input) -> None:
        self.pairs, self.input = pairs, wanted

    def __call__(self, clip: Clip) -> float:
        flows = [max(0.5, flow) for flow in self.pairs(clip)]
        return math.log2(max(flows) / min(flows))
