"""Hard cuts: candidates from PySceneDetect's AdaptiveDetector, each checked for what a cut is, a change of scene.

The detector runs with a low ratio, so that cuts in the middle of fast motion are among its candidates; most of what it then
finds beside them (fast motion, shake, light) is one scene by `views.structure`. A flash, a few brighter frames between two of
one scene, is no cut. Beside a flat picture (black, white) nothing can be compared: there a cut is a step, a fade is a ramp.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from mugv.curation.shots.views import View, change, changed_region, colour, leaps, structure
from mugv.recipe.curation import ShotSplit

RATIO, WINDOW = 1.3, 2
"""A candidate's content score is this many times the mean score of the two frames before and the two after."""
LEAST_CHANGE = 6.0
"""Levels, root mean square, that a cut changes."""
STEP = 2.5
"""Beside a flat picture: a cut changes this many times what the frames next to it change."""
SUDDEN = 3.0
"""A change this many times the mean of the frames beside it speaks for a cut."""
BARE, BARE_SUDDEN = 0.35, 1.6
"""Where so little of the picture has detail, nothing can be compared: a large change, this many times any beside it, is a cut."""
LARGE, LARGE_ALIKE = 25.0, 0.75
"""Levels of a change that, when sudden, needs less unlikeness to be a cut: from one take to another of the same place."""
FLASH = 4
"""Frames of the longest flash."""
LIT, DARKER = 0.7, 0.2
"""Likeness to the scene of what a flash shows of it, and the share of the picture that may be darker than before."""
UNDER_GRAPHICS = 10.0
"""Levels of a sudden change under graphics that stay."""
QUIET = 2.0
"""Foreign pictures begin and end with steps so many times those beside them."""
LAG = FLASH + 1
"""Frames after one that must be known before it is decided."""


class ContentScore(AdaptiveDetector):
    """PySceneDetect's detector; its content score, the mean change of hue, saturation and value, is OpenCV's: a fifth of the time."""

    _before: np.ndarray | None = None

    def _calculate_frame_score(self, timecode: FrameTimecode, frame_img: np.ndarray) -> float:
        before, self._before = self._before, cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV)
        return 0.0 if before is None else cv2.norm(before, self._before, cv2.NORM_L1) / before.size


class Cuts:
    """Fed with views in order; `decided(at)` tells of frames that are LAG behind the newest."""

    def __init__(self, split: ShotSplit, view: Callable[[int], View]) -> None:
        """`view`: the view of a recent frame by its number."""
        self.detector = ContentScore(RATIO, 0, WINDOW, split.content_threshold)
        self.view = view
        self.count = 0
        self.fed = 0
        self.changes: dict[int, float] = {}
        self.candidates: set[int] = set()

    def add(self, view: View) -> None:
        """The next frame. The first is fed to the detector three times, since it compares with two frames before."""
        for _ in range(1 if self.count else 1 + WINDOW):
            self._feed(view)
        self.changes[self.count] = change(self.view(self.count - 1), view) if self.count else 0.0
        self.changes.pop(self.count - 4 * LAG, None)
        self.count += 1

    def finish(self) -> None:
        """No frame comes any more: the detector decides on the last two."""
        for _ in range(WINDOW if self.count else 0):
            self._feed(self.view(self.count - 1))

    def decided(self, at: int) -> bool:
        """Whether a shot begins with frame `at`."""
        if at not in self.candidates:
            return False
        self.candidates.discard(at)
        before, after, size = self.view(at - 1), self.view(at), self.changes[at]
        beside = {k: self.changes[at + k] for k in (-2, -1, 1, 2) if at + k in self.changes and at + k > 0}
        ratio = size / (sum(beside.values()) / max(1, len(beside)) + 0.3)
        if size < LEAST_CHANGE or ratio < RATIO or self._flash(at):
            return False
        if before.flat or after.flat:
            return size > STEP * max(beside.get(-1, 0.0), beside.get(1, 0.0)) or self._inserted(at)
        step = size / (max(beside.values(), default=0.0) + 0.3)
        if (ratio > SUDDEN or (step > BARE_SUDDEN and size > LARGE)) and min(before.detail, after.detail) < BARE:
            return True
        alike = structure(before, after)
        if alike < LARGE_ALIKE and self._inserted(at):
            return True
        if step > SUDDEN and size > LARGE and alike < LARGE_ALIKE:
            return True
        if alike < 0.45 + 0.06 * min(3.0, ratio) or (ratio > SUDDEN and alike < 0.8 and colour(before, after) < 0.3):
            return True
        return self._under_graphics(at)

    def heals(self, at: int) -> bool:
        """Whether damage that the decoder did not notice ends with frame `at`, a key frame inside a shot: there the picture leaps.

        After other key frames it cannot: what is damaged in those would leap where it begins.
        """
        inside = self.view(at).key and at >= 3 and at + 2 < self.count and not any(self.view(at - k).key for k in (1, 2))
        return inside and leaps([self.view(k) for k in range(at - 3, at + 3)]) and not self._flash(at)

    def _feed(self, view: View) -> None:
        found = self.detector.process_frame(FrameTimecode(self.fed, 25.0), view.half)
        self.candidates.update(code.frame_num - WINDOW for code in found)
        self.fed += 1

    def _flash(self, at: int) -> bool:
        """A flash begins or ends with frame `at`: the frames around it are brighter than one scene on both its sides."""
        for length in range(1, FLASH + 1):
            for first in (at, at - length):
                if self._lit(first, first + length, self.changes[at]):
                    return True
        return False

    def _lit(self, first: int, end: int, size: float) -> bool:
        if first < 1 or end >= self.count:
            return False
        before, after = self.view(first - 1), self.view(end)
        dark = max(before.mean, after.mean) + 5
        inside = [self.view(k) for k in range(first, end)]
        if any(view.mean < dark for view in inside) or not self._goes_on(before, after, size):
            return False
        return all(view.white or (structure(before, view) > LIT and _darker(before, view) < DARKER) for view in inside)

    @staticmethod
    def _goes_on(before: View, after: View, size: float) -> bool:
        """One scene, however it moved between the two."""
        return change(before, after) <= 0.6 * size and (structure(before, after) > 0.6 or (before.flat and after.flat))

    def _inserted(self, at: int) -> bool:
        """A few foreign pictures, with the same scene on both sides, begin or end with frame `at`: a step there, and none beside them."""
        for length in range(1, FLASH + 1):
            for first in (at, at - length):
                end = first + length
                if first < 1 or end >= self.count or not self._goes_on(self.view(first - 1), self.view(end), self.changes[at]):
                    continue
                quiet = [self.changes[k] for k in (first - 1, end + 1) if 0 < k < self.count]
                if min(self.changes[first], self.changes[end]) > QUIET * max(quiet, default=0.0):
                    return True
        return False

    def _under_graphics(self, at: int) -> bool:
        """Much of the picture changes at once into another scene, the rest stays as it was."""
        if not 2 <= at < self.count - 1:
            return False
        region = changed_region([self.view(k) for k in range(at - 2, at + 2)])
        if region is None or region.sudden < SUDDEN or region.size < UNDER_GRAPHICS:
            return False
        return structure(self.view(at - 1), self.view(at), region.where) < LARGE_ALIKE


def _darker(first: View, second: View) -> float:
    """Share of the picture that gets darker, by more than motion makes of it."""
    return float((cv2.subtract(first.gray, second.gray) > 12).mean())
