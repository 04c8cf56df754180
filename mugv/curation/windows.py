"""Tagged frames to windows: stretches of exactly clip.frames pictures at clip.fps inside one shot, with all that scores need.

Windows stand one after the other from the start of a shot, so at most one window of frames is held at any time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from mugv.curation.scores import sharpness, shrink
from mugv.curation.shots import Tagged
from mugv.media.decode import Frame, resample
from mugv.media.resize import fit_short_side, resize_crop
from mugv.recipe.schema import Curation

LEAST_PICTURES = 0.75
"""Share of a window's frames that must be different pictures of the source; below it the source's frame rate is too low."""


@dataclass(frozen=True)
class Sample:
    """One picture of a clip in the sizes that its users want."""

    index: int
    seconds: float
    clip: np.ndarray
    flow: np.ndarray
    sharpness: float


@dataclass(frozen=True)
class Window:
    """A candidate for a clip, or (without samples) a stretch that gives none and why."""

    samples: tuple[Sample, ...]
    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    shot: int
    reason: str = ""
    detail: str = ""


def cut_windows(tagged: Iterable[Tagged], settings: Curation) -> Iterator[Window]:
    """Windows of every shot in order; one Window without samples for a transition and for a shot that is too short."""
    for shot, run in groupby(tagged, key=lambda t: t.shot):
        span = _Span(shot, settings)
        windows = 0
        samples: list[Sample] = []
        skip = 0
        for sample in _samples(resample(span.usable(run), settings.clip.fps), settings):
            if skip:
                skip -= 1
                continue
            samples.append(sample)
            if len(samples) == settings.clip.frames:
                yield _window(samples, shot, settings)
                windows += 1
                skip = max(0, settings.clip.stride_frames - len(samples))
                del samples[: settings.clip.stride_frames]
        if span.transition:
            yield span.rejected("blurred" if span.soft() else "transition", f"a blend of {span.count} frames")
        elif not windows or span.count < settings.shot.minimum_frames:
            yield span.rejected("too_short", f"a shot of {span.count} frames")


class _Span:
    """Watches a run of frames go by."""

    def __init__(self, shot: int, settings: Curation) -> None:
        self.shot, self.settings = shot, settings
        self.first: Frame | None = None
        self.last: Frame | None = None
        self.count = 0
        self.transition = self.black = False
        self.blends: list[float] = []

    def usable(self, run: Iterable[Tagged]) -> Iterator[Frame]:
        for tagged in run:
            self.first = self.first or tagged.frame
            self.last = tagged.frame
            self.count += 1
            self.transition = tagged.kind in ("blend", "black")
            self.black |= tagged.kind == "black"
            if tagged.kind == "blend":
                self.blends.append(sharpness(tagged.frame.rgb, self.settings.sharpness.short_side))
            if tagged.kind == "shot":
                yield tagged.frame

    def soft(self) -> bool:
        """As long as a clip, without black, and blurred: a soft picture that moves is a blend of itself, so this is no transition."""
        assert self.first is not None
        assert self.last is not None
        long = self.last.seconds - self.first.seconds >= (self.settings.clip.frames - 1) / self.settings.clip.fps
        return long and not self.black and statistics.median(self.blends) < (self.settings.sharpness.minimum or 0.0)

    def rejected(self, reason: str, detail: str) -> Window:
        assert self.first is not None
        assert self.last is not None
        return Window((), self.first.index, self.last.index + 1, self.first.seconds, self.last.seconds, self.shot, reason, detail)


def _samples(frames: Iterable[Frame], settings: Curation) -> Iterator[Sample]:
    made: Sample | None = None
    for frame in frames:
        if made is None or made.index != frame.index:
            height, width = fit_short_side(frame.rgb.shape[0], frame.rgb.shape[1], settings.clip.short_side)
            clip = resize_crop(frame.rgb[None], height, width)[0]
            flow = shrink(frame.rgb, settings.motion.short_side)
            made = Sample(frame.index, frame.seconds, clip, flow, sharpness(frame.rgb, settings.sharpness.short_side))
        yield made


def _window(samples: list[Sample], shot: int, settings: Curation) -> Window:
    first, last = samples[0], samples[-1]
    pictures = len({sample.index for sample in samples})
    low = pictures < LEAST_PICTURES * len(samples)
    end = last.seconds + 1 / settings.clip.fps
    reason, detail = ("low_frame_rate", f"{pictures} pictures for {len(samples)} frames") if low else ("", "")
    return Window(tuple(samples), first.index, last.index + 1, first.seconds, end, shot, reason, detail)
