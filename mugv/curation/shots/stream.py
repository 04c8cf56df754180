"""Frames in, the same frames out a little later with their place in a shot: cuts, gradual transitions, black."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from mugv.curation.shots import cuts, gradual
from mugv.curation.shots.views import View, leaps
from mugv.media.decode import Frame
from mugv.recipe.curation import ShotSplit

BRIDGE = 8
"""Frames between two parts of one transition that belong to it."""
FADES, LONGEST_FADE = 1.02, 25
"""By how much the contrast grows from frame to frame out of black, or shrinks into it; frames before black that are looked at."""


@dataclass(frozen=True)
class Tagged:
    """A frame and its place: `shot` numbers runs of frames from 0, transitions included."""

    frame: Frame
    shot: int
    kind: Literal["shot", "edge", "blend", "black"]
    """edge: in a shot, but within trim_frames of a boundary (of a transition, whose ends are soft, a little more); blend, black: in one."""
    doubt: bool = False
    """In what may be a cross-fade: not sure enough for a boundary, too likely for a clip."""


def tag_frames(frames: Iterable[Frame], fps: float, split: ShotSplit) -> Iterator[Tagged]:
    """Every frame in order, a fixed number of frames late. A picture of another size, or another part of a joined file,
    begins a shot: nothing is compared across."""
    shot = 0
    for _, run in groupby(frames, key=lambda frame: (frame.size, frame.piece)):
        for tagged in _tag_run(run, fps, split, shot):
            yield tagged
            shot = tagged.shot
        shot += 1


def _tag_run(frames: Iterable[Frame], fps: float, split: ShotSplit, shot: int) -> Iterator[Tagged]:
    """`shot`: the number of the first."""
    waiting: deque[Frame] = deque()
    marks = _Marks(split, fps, shot)
    for frame in frames:
        marks.add(View(frame))
        waiting.append(frame)
        _spoil(waiting, marks)
        if len(waiting) > marks.delay:
            yield marks.tag(waiting.popleft())
    marks.finish()
    _spoil(waiting, marks)
    while waiting:
        yield marks.tag(waiting.popleft())


def _spoil(waiting: Sequence[Frame], marks: _Marks) -> None:
    """Where damage was seen to end, it may be in all frames since the key frame before, or since the first leap after that one, as far
    as they still wait."""
    for healed in marks.healed:
        end = healed - marks.tagged
        first = next((k for k in range(end - 1, 0, -1) if waiting[k].key), 0)
        views = [View(waiting[k]) for k in range(first, end)]
        first += next((k for k in range(3, len(views) - 2) if leaps(views[k - 3 : k + 3])), 0)
        for k in range(first, end):
            waiting[k].corrupt = True
    marks.healed.clear()


class _Marks:
    """Which frames start a shot and which belong to a transition; views are kept only as long as a span needs."""

    def __init__(self, split: ShotSplit, fps: float, shot: int) -> None:
        self.split = split
        self.stride = max(1, round(fps / 30))
        self.soft = split.trim_frames + (round(fps / 16) if split.trim_frames else 0)
        self.views: dict[int, View] = {}
        self.cuts = cuts.Cuts(split, self.views.__getitem__)
        self.gradual = gradual.Gradual(split.gradual_threshold, fps / self.stride)
        self.count = self.decided = self.tagged = 0
        self.shot = shot
        self.starts: dict[int, bool] = {}
        self.flat: dict[int, str] = {}
        self.marks: dict[int, bool] = {}
        self.insides: dict[int, bool] = {}
        self.spreads: dict[int, float] = {}
        self.fading: set[int] = set()
        self.healed: list[int] = []
        """Frames with which damage was seen to end; whoever reads them clears them."""
        self.was_inside = False
        self.looked, self.last_inside = 0, -self.soft - 1
        self.delay = cuts.LAG + self.stride * (gradual.REACH + BRIDGE + 1) + self.soft + gradual.SPANS[-1]

    def add(self, view: View) -> None:
        self.views[self.count] = view
        self.views.pop(self.count - 4 * cuts.LAG, None)
        self.cuts.add(view)
        self.count += 1
        while self.decided < self.count - cuts.LAG:
            self._decide()

    def finish(self) -> None:
        self.cuts.finish()
        while self.decided < self.count:
            self._decide()
        self.gradual.finish()

    def _decide(self) -> None:
        at = self.decided
        self.decided += 1
        self.starts[at] = self.cuts.decided(at)
        view = self.views[at]
        if not self.starts[at] and self.cuts.heals(at):
            self.healed.append(at)
        self.flat[at] = "" if not view.flat else "black" if view.mean < self.split.fade_threshold else "plain"
        self._follow_fade(at)
        if at % self.stride == 0:
            self.gradual.add(view, any(self.starts.get(k, False) for k in range(at - self.stride + 1, at + 1)))

    def _follow_fade(self, at: int) -> None:
        """Mark the frames that come out of black, or went into it, by equal or growing steps: those of a dark scene show too little
        contrast for a span of theirs to count."""
        spread = self.views[at].spread
        if self.flat[at] == "black":
            k = at - 1
            while k - 1 in self.spreads and not self.flat[k] and self.spreads[k] < self.spreads[k - 1] / FADES:
                self.fading.add(k)
                k -= 1
        elif at and not self.starts[at] and spread > FADES * self.spreads[at - 1]:
            self.fading |= {at} if self.flat[at - 1] == "black" or at - 1 in self.fading else set()
        self.spreads[at] = spread
        self.spreads.pop(at - LONGEST_FADE, None)
        self.fading.discard(at - 4 * gradual.REACH)

    def tag(self, frame: Frame) -> Tagged:
        """Frames must come in order, `delay` frames after they were added (or at the end)."""
        at = self.tagged
        inside = self._inside(at)
        if at and (self.starts[at] or inside != self.was_inside):
            self.shot += 1
        self.was_inside = inside
        self.tagged += 1
        self.starts.pop(at - 4 * gradual.REACH, None)
        self.flat.pop(at - 4 * gradual.REACH, None)
        if inside:
            return Tagged(frame, self.shot, "black" if self.flat[at] == "black" else "blend")
        return Tagged(frame, self.shot, "edge" if self._near(at) else "shot", self._doubtful(at // self.stride))

    def _near(self, at: int) -> bool:
        """Within trim_frames of a start, or `soft` frames of a transition."""
        trim = self.split.trim_frames
        for k in range(self.looked, min(self.count, at + self.soft + 1)):
            self.looked = k + 1
            if self._inside(k):
                self.last_inside = k
        return at - self.soft <= self.last_inside or any(self.starts.get(k, False) for k in range(at - trim + 1, at + trim + 1))

    def _inside(self, at: int) -> bool:
        """In a transition, or in a short gap between two parts of one. Decided once, as `_marked`."""
        if at not in self.insides:
            self.insides[at] = self._marked(at) or self._in_gap(at)
            self.insides.pop(at - 4 * gradual.REACH, None)
        return self.insides[at]

    def _in_gap(self, at: int) -> bool:
        before = any(self._marked(k) for k in range(max(0, at - BRIDGE), at))
        return before and any(self._marked(k) for k in range(at + 1, min(self.count, at + BRIDGE + 1)))

    def _marked(self, at: int) -> bool:
        """Decided once, when first asked: by then every span that reaches the frame has been judged."""
        if at not in self.marks:
            self.marks[at] = self._mark(at)
            self.marks.pop(at - 4 * gradual.REACH, None)
        return self.marks[at]

    def _mark(self, at: int) -> bool:
        if self.flat[at] == "black" or at in self.fading:
            return True
        number = at // self.stride
        return self._voted(number) or (self.flat[at] == "plain" and any(self._voted(number + k) for k in range(-8, 9)))

    def _voted(self, number: int) -> bool:
        """Voted for by a third as many spans as the best frame of the same run, which has votes enough: where long spans alone
        reach, a moving scene looks like the start of its mix."""
        own = self.gradual.votes.get(number, 0)
        best = self._best(number) if own else 0
        return best >= gradual.VOTES and own >= gradual.SHARE * best

    def _doubtful(self, number: int) -> bool:
        return number in self.gradual.doubts and self._best(number) < gradual.VOTES

    def _best(self, number: int) -> int:
        """Most votes in the run of frames that this one belongs to."""
        votes = self.gradual.votes
        best = votes.get(number, 0)
        for way in (-1, 1):
            k = number
            while abs(k - number) <= gradual.SPANS[-1] and votes.get(k, 0):
                best = max(best, votes[k])
                k += way
        return best
