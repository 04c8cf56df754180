"""Gradual transitions, found by what they are: every frame between two scenes is one linear mix of them.

Frames a = t - s and b = t + s, for half spans s from 3 to 16 frames, are the ends; m = t lies between. A candidate is one
whose coarse picture goes from a to b on a straight line without a jump, further than the shot's own frames go as a rule (the
temporal 3-sigma test). It is then checked in three measures, all of 54-pixel views:

    residue   |m - mix of a' and b'| / |b' - a'|, least squares, where a' and b' are the ends moved to t by their own camera motion
    likeness  of a' and b' after optical flow: a pan or a zoom has a' = b', a cross-fade has not
    colour    correlation of the histograms of a and b

and counts as a vote when both limits hold and a linear decision function is passed (fitted by logistic regression on
spans of moving photographs, film frames and noise textures; that program was not kept). Two votes make a transition.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from mugv.curation.shots.views import FLAT, SIDE, View, colour, flow_between, grid, warped_likeness

SPANS = (3, 5, 8, 12, 16)
LONGEST_SECONDS, LEAST_LONGEST = 0.67, 8
"""Half spans longer than this are left out at low frame rates, unless they are this short in frames."""
MOTION_GAP = 2
"""Frames over which the camera's motion at either end is measured."""
REACH = 2 * SPANS[-1] + MOTION_GAP + SPANS[-1] // 3
"""Frames after one that may still mark it."""
KEPT = 2 * SPANS[-1] + 2 * MOTION_GAP + SPANS[-1] // 3 + 1
SPARSE = np.s_[3:-3:6, 3:-3:6]
"""Pixels at which the camera's motion is read off the optical flow."""
LEAST_CHANGE = 8.0
"""Levels, root mean square, between the ends."""
MIDDLE, LARGEST_STEP, ROUGH = (0.15, 0.85), 0.55, 0.95
"""The middle frame's share of b; the largest step between two frames, above which the span holds a cut; residue of the coarse pictures."""
RESIDUE, LIKENESS = 0.46, 0.45
CONSTANT, BY_RESIDUE, BY_LIKENESS, BY_COLOUR = 6.0, -9.0, -4.5, -1.5
"""Decision function."""
BARE, BARE_RESIDUE, BARE_LIKENESS = 0.35, 0.25, 0.9
"""Where less of the picture has detail, likeness says little: there one span is enough, with a smaller residue."""
STEEP = 0.4
"""Share of the largest steps of the mix with which a step still belongs to the transition."""
SHORT = 11
"""Frames of the spans that are taken whole: in so few the scenes' own motion says little."""
STILL, OFF_RAMP, RAMP_COLOURS = 2, 0.03, 0.95
"""A ramp: frames that stand still on either side, the share's largest distance from it, correlation of the colours. On footage with known
truth 203 spans pass, all of them transitions; the next ones that are none are 0.031 off (a program not kept)."""
FADE_RESIDUE, FADED = 0.25, 0.5
"""A fade: residue of the coarse pictures, and the contrast of one end in units of the other's."""
LEAST_MIX, SAME_COLOURS = 10.0, 0.985
"""A cross-fade is at least this strong, levels, and its scenes' colours correlate no more. Of 6,600 spans on footage with known
truth the 200 of cross-fades had 12.6 and 0.96 (a program not kept); four in five of the others end here, before any optical flow."""
DOUBT, DOUBT_MARGIN = 0.2, 0.05
"""So far under the decision function's zero, and over the limits, a span is in doubt: no transition, but no clip either."""
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


@dataclass(frozen=True)
class Candidate:
    """A span of frames first .. last, the residue of its middle, its strength, and whether that is more than the shot's own motion."""

    first: int
    last: int
    rough: float
    strength: float
    strong: bool


class Gradual:
    """Fed with views in order; `votes` holds how many spans put each recent frame into a transition."""

    def __init__(self, deviations: float, fps: float) -> None:
        self.deviations = deviations
        self.spans = [span for span in SPANS if span <= max(LEAST_LONGEST, LONGEST_SECONDS * fps)]
        self.count = 0
        self.views: dict[int, View] = {}
        self.broken = -1
        self.entries = 0
        self.vectors: np.ndarray | None = None
        self.products = np.zeros((KEPT, KEPT))
        self.cameras: dict[int, np.ndarray | None] = {}
        self.votes: defaultdict[int, int] = defaultdict(int)
        self.doubts: set[int] = set()
        self.waiting: list[Candidate | None] = []
        self._forget()

    def _forget(self) -> None:
        """Check what waits; a new shot begins with no history."""
        for candidate in self.waiting:
            if candidate:
                self._check(candidate)
        self.history = [Statistics() for _ in self.spans]
        self.past: list[deque[float]] = [deque() for _ in self.spans]
        self.waiting = [None for _ in self.spans]
        self.previous = [0.0 for _ in self.spans]

    def add(self, view: View, broken: bool) -> None:
        """The next frame; `broken`: a shot begins with it, or it belongs to a flash, so that no span may hold both sides."""
        at, slot = self.count, self.count % KEPT
        if self.vectors is None:
            self.entries = view.coarse.size
            self.vectors = np.zeros((KEPT, self.entries))
        self.vectors[slot] = view.coarse
        self.products[slot] = self.products[:, slot] = self.vectors @ view.coarse
        self.views[at] = view
        self.views.pop(at - KEPT, None)
        self.cameras.pop(at - KEPT, None)
        self.count += 1
        if broken:
            self._forget()
            self.broken = at
        for number, span in enumerate(self.spans):
            self._judge(at - span - MOTION_GAP, number)
        self.votes.pop(at - 4 * REACH, None)
        self.doubts.discard(at - 4 * REACH)

    def finish(self) -> None:
        """Spans whose far end has no frames after it."""
        for late in range(1, MOTION_GAP + 1):
            for number, span in enumerate(self.spans):
                self._judge(self.count - 1 + late - span - MOTION_GAP, number)
        self._forget()

    def _judge(self, middle: int, number: int) -> None:
        """Take a span's measure; the one before it is checked when it is a peak: steady motion has few, a transition has one."""
        span = self.spans[number]
        first, last = middle - span, middle + span
        if middle % (span // 3) or first < max(0, self.broken, self.count - KEPT):
            return
        size, share, rough = self._line(first, middle, last)
        strength = size * max(0.0, 1 - rough)
        past, history = self.past[number], self.history[number]
        past.append(strength)
        if len(past) > REACH // (span // 3):
            history.add(past.popleft())
        strong = size >= LEAST_CHANGE and MIDDLE[0] < share < MIDDLE[1] and strength > min(CLEAR, history.limit(self.deviations))
        before, self.waiting[number] = self.waiting[number], Candidate(first, last, rough, strength, strong)
        if before and before.strength >= max(strength, self.previous[number]):
            self._check(before)
        self.previous[number] = before.strength if before else 0.0

    def _check(self, candidate: Candidate) -> None:
        shares = self._path(candidate.first, candidate.last) if candidate.strong else None
        if shares is None:
            return
        mixing = self._ramp(candidate, shares)
        votes = VOTES if mixing else 1 if self._is_fade(candidate) else self._mixed(candidate)
        if votes is None:
            return
        mixing = mixing or (_steep(shares) if len(shares) > SHORT else _mixing(shares))
        start, end = (candidate.first + k for k in mixing)
        for k in range(start, end):
            self.votes[k] += votes
        if not self._is_bare(candidate):
            self.doubts.update(range(start, end))

    def _ramp(self, candidate: Candidate, shares: np.ndarray) -> tuple[int, int] | None:
        """The frames, half open, of a mix that starts and ends at once between pictures that stand still beside it: no camera moves so."""
        if candidate.strength < LEAST_MIX or len(shares) < SHORT:
            return None
        ramps, places = _ramps(len(shares))
        far = np.abs(ramps - shares).max(axis=1)
        best = int(far.argmin())
        if far[best] > OFF_RAMP or colour(self.views[candidate.first], self.views[candidate.last]) > RAMP_COLOURS:
            return None
        return places[best]

    def _is_bare(self, candidate: Candidate) -> bool:
        return min(self.views[k].detail for k in (candidate.first, candidate.last)) < BARE

    def _is_fade(self, candidate: Candidate) -> bool:
        """The whole picture loses or gains most of its contrast along a straight line; its structure stays what it was."""
        a, b = self.views[candidate.first].spread, self.views[candidate.last].spread
        return candidate.rough < FADE_RESIDUE and min(a, b) < FADED * max(a, b) and max(a, b) > FLAT

    def _line(self, first: int, middle: int, last: int) -> tuple[float, float, float]:
        """Distance of the ends, levels; the middle frame's share of the last, and its distance from the straight line between them,
        both in units of that distance."""
        a, m, b, dots = first % KEPT, middle % KEPT, last % KEPT, self.products
        aa, ab, am = float(dots[a, a]), float(dots[a, b]), float(dots[a, m])
        square = max(aa + float(dots[b, b]) - 2 * ab, 1e-6)
        share = (float(dots[m, b]) - am - ab + aa) / square
        # A level of noise an entry is no distance.
        rest = float(dots[m, m]) + aa - 2 * am - share * share * square - self.entries
        return math.sqrt(square / self.entries), share, math.sqrt(max(0.0, rest) / square)

    def _path(self, first: int, last: int) -> np.ndarray | None:
        """Of every frame from first to last, its share of the last; None when one is a jump, or far from the straight line."""
        slots = np.arange(first, last + 1) % KEPT
        a, b, dots = slots[0], slots[-1], self.products
        square = max(dots[a, a] + dots[b, b] - 2 * dots[a, b], 1e-6)
        from_first = dots[slots, a]
        shares = (dots[slots, b] - from_first - dots[a, b] + dots[a, a]) / square
        rest = dots[slots, slots] + dots[a, a] - 2 * from_first - shares**2 * square - self.entries
        straight = np.diff(shares).max() < LARGEST_STEP and rest.max() < ROUGH**2 * square
        return shares if straight else None

    def _mixed(self, candidate: Candidate) -> int | None:
        """Votes for a cross-fade: None when the middle is no mix of the ends or the ends are one scene, 0 in doubt."""
        first, last = candidate.first, candidate.last
        middle = (first + last) // 2
        a, m, b = self.views[first], self.views[middle], self.views[last]
        if candidate.strength < LEAST_MIX or (alike := colour(a, b)) > SAME_COLOURS:
            return None
        constant = CONSTANT + BY_COLOUR * alike
        if a.flat or b.flat:
            return 1 if candidate.rough < RESIDUE and constant + BY_RESIDUE * candidate.rough > 0 else None
        ahead, behind = self._camera(first - MOTION_GAP), self._camera(last)
        steps_a, steps_b = (middle - first) / MOTION_GAP, (middle - last) / MOTION_GAP
        residue = _residue(_moved(a.half, ahead, steps_a), _moved(b.half, behind, steps_b), m.half)
        if residue >= RESIDUE + DOUBT_MARGIN or constant + BY_RESIDUE * residue <= -DOUBT:
            return None
        likeness = warped_likeness(_moved(a.gray, ahead, steps_a)[0], _moved(b.gray, behind, steps_b)[0])
        bare = self._is_bare(candidate)
        if bare and residue < BARE_RESIDUE and likeness < BARE_LIKENESS:
            return VOTES
        decision = constant + BY_RESIDUE * residue + BY_LIKENESS * likeness
        if (bare and decision <= 0) or decision <= -DOUBT or likeness >= LIKENESS + DOUBT_MARGIN:
            return None
        return int(residue < RESIDUE and likeness < LIKENESS and decision > 0)

    def _camera(self, at: int) -> np.ndarray | None:
        """The camera's motion from frame `at` over the gap, measured once; None at the ends of the file."""
        if at not in self.cameras:
            known = at in self.views and at + MOTION_GAP in self.views
            self.cameras[at] = _camera(self.views[at], self.views[at + MOTION_GAP]) if known else None
        return self.cameras[at]


@lru_cache(maxsize=8)
def _ramps(length: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Every share [n, length] that is 0 for STILL frames and more, then rises by equal steps, then is 1 for as long; and the frames,
    half open, at which it is neither."""
    ends = [(a, b) for a in range(STILL, length) for b in range(a + 4, length - STILL)]
    ramps = np.stack([np.clip((np.arange(length) - a) / (b - a), 0, 1) for a, b in ends])
    return ramps, [(a + 1, b) for a, b in ends]


def _mixing(shares: np.ndarray) -> tuple[int, int]:
    """The part of a span, half open, that shows neither end alone."""
    mixed = np.flatnonzero((shares > 0.02) & (shares < 0.98))
    return (int(mixed[0]), int(mixed[-1]) + 1) if mixed.size else (0, 0)


def _steep(shares: np.ndarray) -> tuple[int, int]:
    """The part of a span, half open, in which the share of the far end grows fast: what moves slowly beside it is the scenes' own."""
    steps = np.diff(shares)
    fast = np.flatnonzero((steps > STEEP * np.sort(steps)[-3:].mean()) & (shares[1:] > 0.02) & (shares[:-1] < 0.98))
    return (int(fast[0]) + 1, int(fast[-1]) + 1) if fast.size else (0, 0)


def _camera(first: View, second: View) -> np.ndarray:
    """Affine motion between two views, pixels: [3, 2] for 1, x, y in units of the size from the centre; things that move count little."""
    moves = flow_between(first.gray, second.gray)[SPARSE].reshape(-1, 2)
    terms, inverse = _affine_terms(first.gray.shape)
    weights = 1 / (1 + (np.linalg.norm(moves - terms @ (inverse @ moves), axis=1) / 0.5) ** 4)
    weighted = terms.T * weights
    found: np.ndarray = np.linalg.solve(weighted @ terms + 1e-6 * np.eye(3), weighted @ moves)
    return found


@lru_cache(maxsize=8)
def _affine_terms(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """1, x and y of the sampled pixels, [n, 3], and the matrix [3, n] that fits them by least squares."""
    x, y = (axis[SPARSE].ravel() for axis in grid(*shape))
    terms = np.stack([np.ones(len(x)), x / shape[1] - 0.5, y / shape[0] - 0.5], axis=1)
    return terms, np.linalg.solve(terms.T @ terms + 1e-6 * np.eye(3), terms.T)


def _moved(picture: np.ndarray, camera: np.ndarray | None, steps: float) -> tuple[np.ndarray, np.ndarray | None]:
    """The picture [h, w] or [h, w, 3] as `steps` more of the camera's motion would show it, and where [h, w] it is known (None: all)."""
    if camera is None:
        return picture, None
    height, width = picture.shape[:2]
    field = steps * camera * height / SIDE
    matrix = np.array(
        [
            [1 - field[1, 0] / width, -field[2, 0] / height, -field[0, 0] + (field[1, 0] + field[2, 0]) / 2],
            [-field[1, 1] / width, 1 - field[2, 1] / height, -field[0, 1] + (field[1, 1] + field[2, 1]) / 2],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    if picture.ndim == 2:
        return moved, None
    seen = cv2.warpAffine(np.ones((height, width), np.float32), matrix, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return moved, seen


def _residue(first: tuple[np.ndarray, np.ndarray | None], last: tuple[np.ndarray, np.ndarray | None], middle: np.ndarray) -> float:
    """What the best mix of first and last leaves of the middle, in units of their distance; infinite when the best mix is no mix."""
    way, gone = cv2.subtract(last[0], first[0], dtype=cv2.CV_32F), cv2.subtract(middle, first[0], dtype=cv2.CV_32F)
    pixels = float(middle.shape[0] * middle.shape[1])
    if first[1] is not None and last[1] is not None:
        seen = first[1] * last[1]
        if seen.sum() >= 0.3 * pixels:
            pixels = float(seen.sum())
            way, gone = way * seen[..., None], gone * seen[..., None]
    square = float(np.vdot(way, way)) + 1e-6
    share = float(np.vdot(way, gone)) / square
    if not MIDDLE[0] < share < MIDDLE[1] or square < LEAST_CHANGE**2 * 3 * pixels:
        return math.inf
    return math.sqrt(max(0.0, float(np.vdot(gone, gone)) - share * share * square) / square)
