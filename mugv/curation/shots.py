"""Where shots begin and end, found while the frames stream by: no second decode and no list of frames.

Hard cuts come from PySceneDetect's AdaptiveDetector (its ContentDetector score must pass `content_threshold` and stand out
from its neighbours, so that fast motion is no cut), black stretches from its ThresholdDetector, both fed frame by frame.
Cross-fades and the slopes of fades are found by what they are: a linear blend. With frames a, m, b at distances -w, 0, +w,

    change  = mean |b - a|                        levels, 0 to 255
    residue = |m - (a + b) / 2| / |(b - a) / 2|   root mean squares; 0 for a blend, about 1 or more for things that move
    blend   = change * max(0, 1 - residue)

and a frame is in a gradual transition when its blend exceeds the shot's own mean so far by `gradual_threshold` standard
deviations, and a floor that compression noise does not reach.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ThresholdDetector

from mugv.media.decode import Frame
from mugv.recipe.curation import ShotSplit

DETECTION_SIDE = 48
"""Short side, pixels, of the frames that the detectors see."""
CUT_RATIO, CUT_WINDOW = 1.75, 2
"""A cut's score is this many times the mean score of the two frames before and the two after."""
BLEND_FLOOR = 3.0
"""Levels; compression and slow motion stay below."""
HISTORY = 4
"""Frames of a shot before its own statistics are used."""
SPANS_SECONDS = (1 / 6, 1 / 4)


@dataclass(frozen=True)
class Tagged:
    """A frame and its place: `shot` numbers runs of frames from 0, transitions included."""

    frame: Frame
    shot: int
    kind: Literal["shot", "edge", "blend", "black"]
    """edge: in a shot, but within trim_frames of a boundary; blend and black: in a transition."""


def tag_frames(frames: Iterable[Frame], fps: float, split: ShotSplit) -> Iterator[Tagged]:
    """Every frame in order, a few frames late."""
    waiting: deque[Frame] = deque()
    marks: _Marks | None = None
    for frame in frames:
        if marks is None:
            marks = _Marks(split, min(60.0, max(8.0, fps)))
        marks.add(np.ascontiguousarray(frame.bgr(54)[..., ::-1]))
        waiting.append(frame)
        if len(waiting) > marks.delay:
            yield marks.tag(waiting.popleft())
    while marks is not None and waiting:
        yield marks.tag(waiting.popleft())


class _Statistics:
    """Running mean and standard deviation (Welford)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.squares += delta * (value - self.mean)

    def limit(self, deviations: float) -> float:
        """mean + deviations * standard deviation; 0 while there is too little history."""
        return 0.0 if self.count < HISTORY else self.mean + deviations * math.sqrt(self.squares / self.count)


class _Marks:
    """Which frames start a shot and which belong to a transition; small frames are kept only as long as a span needs."""

    def __init__(self, split: ShotSplit, fps: float) -> None:
        self.split = split
        self.content = AdaptiveDetector(CUT_RATIO, 0, CUT_WINDOW, split.content_threshold)
        self.fade = ThresholdDetector(threshold=split.fade_threshold, min_scene_len=0)
        self.spans = [max(k + 2, round(seconds * fps)) for k, seconds in enumerate(SPANS_SECONDS)]
        self.reach = self.spans[-1]
        self.small: deque[np.ndarray] = deque(maxlen=2 * self.reach + 1)
        self.history = [_Statistics() for _ in self.spans]
        self.cuts: list[bool] = []
        self.gradual: list[bool] = []
        self.black: list[bool] = []
        self.delay = 2 * self.reach + split.trim_frames
        self.tagged, self.shot, self.inside = 0, 0, False

    def add(self, rgb: np.ndarray) -> None:
        scale = DETECTION_SIDE / min(rgb.shape[:2])
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        bgr = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)[..., ::-1] if scale < 1 else rgb[..., ::-1]
        bgr = np.ascontiguousarray(bgr)
        code = FrameTimecode(len(self.cuts), 25.0)
        self.cuts.append(False)
        for cut in self.content.process_frame(code, bgr):
            self.cuts[cut.frame_num] = True
        self.fade.process_frame(code, bgr)
        self.black.append(self.fade.last_fade["type"] == "out")
        self.gradual.append(self.black[-1])
        self.small.append(bgr.astype(np.float32))
        for span, history in zip(self.spans, self.history, strict=True):
            self._blend(span, history)

    def _blend(self, span: int, history: _Statistics) -> None:
        """Judge the frame `span` back, now that both of its neighbours are known."""
        centre = len(self.cuts) - 1 - span
        if centre < span:
            return
        cut = any(self.cuts[centre - span + 1 : centre + span + 1])
        if cut or self.gradual[centre - span]:
            history.reset()
        if cut:
            return
        before, middle, after = self.small[-1 - 2 * span], self.small[-1 - span], self.small[-1]
        half = (after - before) / 2
        residue = cv2.norm(middle - before - half) / (cv2.norm(half) + 1e-3)
        blend = 2 * float(np.abs(half).mean()) * max(0.0, 1 - residue)
        if blend > max(BLEND_FLOOR, history.limit(self.split.gradual_threshold)):
            self.gradual[centre] = True
        else:
            history.add(blend)

    def tag(self, frame: Frame) -> Tagged:
        """Frames must come in order, `delay` frames after they were added (or at the end)."""
        at, trim = self.tagged, self.split.trim_frames
        inside = self._inside(at)
        if at and (self.cuts[at] or inside != self.inside):
            self.shot += 1
        self.inside = inside
        self.tagged += 1
        if inside:
            return Tagged(frame, self.shot, "black" if self.black[at] else "blend")
        last = len(self.cuts) - 1
        near = any(self.cuts[max(0, at - trim + 1) : at + trim + 1]) or any(
            self._inside(k) for k in range(max(0, at - trim), min(last, at + trim) + 1)
        )
        return Tagged(frame, self.shot, "edge" if near else "shot")

    def _inside(self, at: int) -> bool:
        """In a transition, or in a short gap between two parts of one."""
        if self.gradual[at]:
            return True
        reach = self.reach
        return any(self.gradual[max(0, at - reach) : at]) and any(self.gradual[at + 1 : at + reach + 1])
