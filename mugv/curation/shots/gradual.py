"""Gradual transitions, found by what they are: every frame between two scenes is one linear mix of them.

Frames a = t - s and b = t + s, for half spans s from 3 to 16 frames, are the ends; m = t lies between. A candidate is one
whose coarse picture goes from a to b on a straight line without a jump, further than the shot's own frames go as a rule (the
temporal 3-sigma test). It is then checked in three measures, all of 54-pixel views:

    residue   |m - mix of a' and b'| / |b' - a'|, least squares, where a' and b' are the ends moved to t by their own camera motion
    likeness  of a' and b' after optical flow: a pan or a zoom has a' = b', a cross-fade has not
    colour    correlation of the histograms of a and b

and counts as a vote when both limits hold and a linear decision function is passed (fitted by logistic regression on 18,000
spans of moving photographs, film frames and noise textures). Two votes make a transition.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass

import cv2
import numpy as np

from mugv.curation.shots.views import View, colour, flow_between, grid, warped_likeness

SPANS = (3, 5, 8, 12, 16)
MOTION_GAP = 2
"""Frames over which the camera's motion at either end is measured."""
LAG = MOTION_GAP
REACH = 2 * SPANS[-1] + MOTION_GAP
"""Frames after one that may still mark it."""
KEPT = 2 * SPANS[-1] + 2 * MOTION_GAP + 1
LEAST_CHANGE = 6.0
"""Levels, root mean square, between the ends."""
MIDDLE, LARGEST_STEP, ROUGH = (0.15, 0.85), 0.55, 0.95
"""The middle frame's share of b; the largest step between two frames, above which the span holds a cut; residue of the coarse pictures."""
RESIDUE, LIKENESS = 0.5, 0.45
CONSTANT, BY_RESIDUE, BY_LIKENESS, BY_COLOUR = 5.7, -9.0, -4.5, -1.5
"""Decision function."""
INSIDE = 0.06
"""Share of the farther end from which on a frame belongs to the transition."""
VOTES, SHARE = 2, 0.34
"""Votes that a run of frames needs, and the share of its best frame's votes with which a frame belongs to it."""
CLEAR = 20.0
"""Strength, levels, that passes the 3-sigma test whatever the shot did before."""
HISTORY = 4
"""Spans of a shot before its own statistics count."""


@dataclass
class Statistics:
    """Running mean and standard deviation (Welford)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Count a value in."""
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.squares += delta * (value - self.mean)

    def limit(self, deviations: float) -> float:
        """mean + deviations * standard deviation; 0 while there is too little history."""
        return 0.0 if self.count < HISTORY else self.mean + deviations * math.sqrt(self.squares / self.count)


class Gradual:
    """Fed with views in order; `votes` holds how many spans put each recent frame into a transition."""

    def __init__(self, deviations: float) -> None:
        self.deviations = deviations
        self.count = 0
        self.views: dict[int, View] = {}
        self.broken = -1
        self.vectors: np.ndarray | None = None
        self.products = np.zeros((KEPT, KEPT))
        self.cameras: dict[int, np.ndarray | None] = {}
        self.votes: defaultdict[int, int] = defaultdict(int)
        self.history = [Statistics() for _ in SPANS]
        self.past: dict[int, deque[float]] = {span: deque() for span in SPANS}

    def add(self, view: View, broken: bool) -> None:
        """The next frame; `broken`: a shot begins with it, or it belongs to a flash, so that no span may hold both sides."""
        at, slot = self.count, self.count % KEPT
        if self.vectors is None:
            self.vectors = np.zeros((KEPT, view.coarse.size))
        self.vectors[slot] = view.coarse
        self.products[slot] = self.products[:, slot] = self.vectors @ view.coarse
        self.views[at] = view
        self.views.pop(at - KEPT, None)
        self.cameras.pop(at - KEPT, None)
        self.count += 1
        if broken:
            self.broken = at
            self.history = [Statistics() for _ in SPANS]
            self.past = {span: deque() for span in SPANS}
        for number, span in enumerate(SPANS):
            self._judge(at - span - MOTION_GAP, span, self.history[number])
        self.votes.pop(at - 4 * REACH, None)

    def finish(self) -> None:
        """Spans whose far end has no frames after it."""
        for late in range(1, MOTION_GAP + 1):
            for number, span in enumerate(SPANS):
                self._judge(self.count - 1 + late - span - MOTION_GAP, span, self.history[number])

    def _judge(self, middle: int, span: int, history: Statistics) -> None:
        first, last = middle - span, middle + span
        if middle % (span // 3) or first < max(0, self.broken, self.count - KEPT):
            return
        shares, residues, size = self._path(first, last)
        strength = size * max(0.0, 1 - residues[span])
        straight = (
            size >= LEAST_CHANGE
            and MIDDLE[0] < shares[span] < MIDDLE[1]
            and float(np.diff(shares).max()) < LARGEST_STEP
            and float(residues.max()) < ROUGH
        )
        past = self.past[span]
        past.append(strength)
        if len(past) > REACH:
            history.add(past.popleft())
        if not straight or strength <= min(CLEAR, history.limit(self.deviations)) or not self._is_mix(first, middle, last, residues[span]):
            return
        past.pop()
        for k in np.flatnonzero((shares > INSIDE) & (shares < 1 - INSIDE)):
            self.votes[first + int(k)] += 1

    def _path(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Of every frame from first to last, its share of the last and its distance from the straight line, both in units of the
        distance of the ends; and that distance, levels."""
        slots = np.arange(first, last + 1) % KEPT
        a, b, dots = slots[0], slots[-1], self.products
        assert self.vectors is not None
        entries = self.vectors.shape[1]
        square = max(dots[a, a] + dots[b, b] - 2 * dots[a, b], 1e-6)
        shares = (dots[slots, b] - dots[slots, a] - dots[a, b] + dots[a, a]) / square
        from_first = dots[slots, slots] + dots[a, a] - 2 * dots[slots, a]
        noise = entries
        residues = np.sqrt(np.maximum(from_first - shares**2 * square - noise, 0) / square)
        return shares, residues, math.sqrt(square / entries)

    def _is_mix(self, first: int, middle: int, last: int, rough: float) -> bool:
        a, m, b = self.views[first], self.views[middle], self.views[last]
        tint = colour(a, b)
        if a.flat or b.flat:
            return rough < RESIDUE and CONSTANT + BY_RESIDUE * rough + BY_COLOUR * tint > 0
        ahead, behind = self._camera(first - MOTION_GAP), self._camera(last)
        moved_a, seen_a = _moved(a, ahead, (middle - first) / MOTION_GAP)
        moved_b, seen_b = _moved(b, behind, (middle - last) / MOTION_GAP)
        residue = _residue(moved_a, moved_b, m.bgr, seen_a & seen_b)
        if residue >= RESIDUE or CONSTANT + BY_RESIDUE * residue + BY_COLOUR * tint <= 0:
            return False
        likeness = warped_likeness(_gray(moved_a), _gray(moved_b))
        return likeness < LIKENESS and CONSTANT + BY_RESIDUE * residue + BY_LIKENESS * likeness + BY_COLOUR * tint > 0

    def _camera(self, at: int) -> np.ndarray | None:
        """The camera's motion from frame `at` over the gap, measured once; None at the ends of the file."""
        if at not in self.cameras:
            known = at in self.views and at + MOTION_GAP in self.views
            self.cameras[at] = _camera(self.views[at], self.views[at + MOTION_GAP]) if known else None
        return self.cameras[at]


def _camera(first: View, second: View) -> np.ndarray:
    """Affine motion between two views, pixels: [3, 2] for 1, x, y in units of the size from the centre; things that move count little."""
    field = flow_between(first.gray, second.gray)
    height, width = first.gray.shape
    x, y = grid(height, width)
    part = np.s_[2:-2:4, 2:-2:4]
    moves = field[part].reshape(-1, 2)
    terms = np.stack([np.ones(len(moves)), x[part].ravel() / width - 0.5, y[part].ravel() / height - 0.5], axis=1)
    weights = np.ones((len(moves), 1))
    for _ in range(3):
        weighted = terms * weights
        found = np.linalg.solve(weighted.T @ terms + 1e-6 * np.eye(3), weighted.T @ moves)
        weights = 1 / (1 + (np.linalg.norm(moves - terms @ found, axis=1, keepdims=True) / 0.5) ** 4)
    return found


def _moved(view: View, camera: np.ndarray | None, steps: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture [h, w, 3] as `steps` more of the camera's motion would show it, and where [h, w] it is known."""
    height, width = view.gray.shape
    if camera is None:
        return view.bgr, np.ones((height, width), bool)
    x, y = grid(height, width)
    field = (steps * camera).astype(np.float32)
    across, down = x / width - 0.5, y / height - 0.5
    from_x = x - (field[0, 0] + field[1, 0] * across + field[2, 0] * down)
    from_y = y - (field[0, 1] + field[1, 1] * across + field[2, 1] * down)
    seen = (from_x >= 0) & (from_x <= width - 1) & (from_y >= 0) & (from_y <= height - 1)
    return cv2.remap(view.bgr, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), seen


def _residue(first: np.ndarray, last: np.ndarray, middle: np.ndarray, seen: np.ndarray) -> float:
    """What the best mix of first and last leaves of the middle, in units of their distance; infinite when the best mix is no mix."""
    if seen.mean() < 0.3:
        seen = np.ones_like(seen)
    a, b, m = (cv2.blur(picture, (3, 3))[seen].astype(np.float32) for picture in (first, last, middle))
    way, gone = b - a, m - a
    square = float(np.vdot(way, way)) + 1e-6
    share = float(np.vdot(way, gone)) / square
    if not MIDDLE[0] < share < MIDDLE[1] or square < LEAST_CHANGE**2 * way.size:
        return math.inf
    return float(np.linalg.norm(gone - share * way)) / math.sqrt(square)


def _gray(bgr: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
