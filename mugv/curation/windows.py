"""Tagged frames to clips: stretches of exactly clip.frames pictures at clip.fps inside one shot.

Windows stand one after the other from the start of a shot, so at most one window of frames is held at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

import numpy as np

from mugv.curation.shots import Tagged
from mugv.media.decode import Frame, resample
from mugv.media.orientation import Box
from mugv.media.picture import SMALL_PICTURE
from mugv.media.probe import VideoInfo
from mugv.media.resize import fit_short_side, resize_crop
from mugv.recipe.curation import ClipFormat, Curation, ShotSplit

LEAST_PICTURES = 0.75
"""Share of a window's frames that must be different pictures of the source; below it the source's frame rate is too low."""
LOW_RATE = "low_frame_rate"


class Clip:
    """Frames of one candidate on the clip's grid; pictures are made when they are asked for. A crop is a view of the same frames."""

    def __init__(self, frames: Sequence[Frame], fps: float, info: VideoInfo, box: Box | None = None) -> None:
        self._frames, self.fps, self.info, self.box = frames, fps, info, box

    @property
    def count(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the (cropped) picture in upright source pixels."""
        return self._frames[0].size if self.box is None else (self.box[3], self.box[2])

    def seconds(self, k: int) -> float:
        return self._frames[k].seconds

    def index(self, k: int) -> int:
        """Number in the source of the picture at k; neighbours share one where the source's frame rate is lower than the clip's."""
        return self._frames[k].index

    def key(self, k: int) -> bool:
        """Whether that picture is a key frame of the source."""
        return self._frames[k].key

    @property
    def corrupt(self) -> bool:
        """Any of the pictures was damaged in the file."""
        return any(frame.corrupt for frame in self._frames)

    @property
    def pictures(self) -> int:
        """Different pictures of the source."""
        return len({frame.index for frame in self._frames})

    def luma(self, k: int, short_side: int) -> np.ndarray:
        """uint8 [h, w], scaled down (never up) to the short side."""
        return self._frames[k].luma(short_side, self.box)

    def bgr(self, k: int, short_side: int) -> np.ndarray:
        """uint8 [h, w, 3] in OpenCV's order, by the fast conversion."""
        return self._frames[k].bgr(short_side, self.box)

    def rgb(self, k: int, short_side: int) -> np.ndarray:
        """uint8 [h, w, 3] by the exact conversion. Small pictures are converted whole, then scaled; large ones while they are converted."""
        frame = self._frames[k]
        return frame.kept("rgb", short_side, self.box, lambda: self._converted(frame, short_side))

    def _converted(self, frame: Frame, short_side: int) -> np.ndarray:
        if frame.size[0] * frame.size[1] > SMALL_PICTURE:
            return frame.rgb(short_side, self.box)
        return resize_crop(frame.rgb(None, self.box)[None], *fit_short_side(*self.size, short_side))[0]

    def frames(self, short_side: int) -> np.ndarray:
        """uint8 [T, H, W, 3] for the encoder. A picture that is shown twice is converted once."""
        made: list[np.ndarray] = []
        for k in range(self.count):
            made.append(made[-1] if k and self.index(k) == self.index(k - 1) else self.rgb(k, short_side))
        return np.stack(made)

    def crop(self, box: Box) -> Clip:
        """What lies inside (left, top, width, height), upright source pixels; later sizes are those of the cropped picture."""
        return Clip(self._frames, self.fps, self.info, box)


@dataclass(frozen=True)
class Window:
    """A candidate for a clip, or (without one) a stretch that gives none and why."""

    clip: Clip | None
    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    reason: str = ""
    detail: str = ""

    def joined(self, later: Window) -> Window:
        """The stretch from the beginning of this one to the end of a later one, of the same reason."""
        pictures, seconds = later.end_frame - self.start_frame, later.end_seconds - self.start_seconds
        detail = f"{pictures} pictures in {seconds:.1f} s"
        return replace(self, end_frame=later.end_frame, end_seconds=later.end_seconds, detail=detail)


def cut_windows(tagged: Iterable[Tagged], info: VideoInfo, split: ShotSplit, clip: ClipFormat) -> Iterator[Window]:
    """Windows of every shot in order; one Window without a clip for a transition and for a shot that is too short, and one
    `low_frame_rate` for a whole stretch with too few pictures, however long."""
    for _, run in groupby(tagged, key=lambda t: t.shot):
        span = _Span(split)
        windows = 0
        for window in _joined(_windows(span, run, info, clip)):
            yield window
            windows += 1
        if span.transition:
            black = 2 * span.black > span.count
            said = f"{span.black} black frames" if black else f"a blend of {span.count} frames"
            yield span.rejected("black" if black else "transition", said)
        elif not windows or span.count < split.minimum_frames:
            yield span.rejected("too_short", f"a shot of {span.count} frames")


def _windows(span: _Span, run: Iterable[Tagged], info: VideoInfo, clip: ClipFormat) -> Iterator[Window]:
    """No window spans a pause; the picture that is shown meanwhile would fill it."""
    for pause, piece in groupby(_pieces(span.usable(run), clip.frames / clip.fps), key=itemgetter(0)):
        if pause:
            yield pause
        held: list[Frame] = []
        skip = 0
        for frame in resample(map(itemgetter(1), piece), clip.fps):
            if skip:
                skip -= 1
                continue
            held.append(frame)
            if len(held) == clip.frames:
                yield _window(Clip(tuple(held), clip.fps, info), span.doubtful)
                skip = max(0, clip.stride_frames - len(held))
                del held[: clip.stride_frames]


def _pieces(frames: Iterable[Frame], longest: float) -> Iterator[tuple[Window | None, Frame]]:
    """Each frame with the last pause before it: the picture that was shown for more than `longest` seconds."""
    pause, before = None, None
    for frame in frames:
        if before and frame.seconds - before.seconds > longest:
            detail = f"one picture for {frame.seconds - before.seconds:.1f} s"
            pause = Window(None, before.index, before.index + 1, before.seconds, frame.seconds, LOW_RATE, detail)
        before = frame
        yield pause, frame


def _joined(windows: Iterable[Window]) -> Iterator[Window]:
    """Those of too low a frame rate that follow each other as one, with the clip of the first."""
    low: Window | None = None
    for window in windows:
        if window.reason == LOW_RATE:
            low = low.joined(window) if low else window
            continue
        if low:
            yield low
            low = None
        yield window
    if low:
        yield low


class _Span:
    """Watches a run of frames go by."""

    def __init__(self, split: ShotSplit) -> None:
        self.split = split
        self.first: Frame | None = None
        self.last: Frame | None = None
        self.count = self.black = 0
        self.transition = False
        self.doubtful: set[int] = set()

    def usable(self, run: Iterable[Tagged]) -> Iterator[Frame]:
        longest = self.split.maximum_seconds
        for tagged in run:
            self.first = self.first or tagged.frame
            self.last = tagged.frame
            self.count += 1
            self.transition = tagged.kind in ("blend", "black")
            if tagged.doubt:
                self.doubtful.add(tagged.frame.index)
            self.black += tagged.kind == "black"
            if tagged.kind == "shot" and (longest is None or tagged.frame.seconds - self.first.seconds < longest):
                yield tagged.frame

    def rejected(self, reason: str, detail: str) -> Window:
        assert self.first is not None
        assert self.last is not None
        return Window(None, self.first.index, self.last.index + 1, self.first.seconds, self.last.seconds, reason, detail)


def _window(clip: Clip, doubtful: set[int]) -> Window:
    last, reason, detail = clip.count - 1, "", ""
    if clip.corrupt:
        reason, detail = "corrupt", "damage in it, which the decoder concealed or a key frame ended"
    elif not doubtful.isdisjoint(range(clip.index(0), clip.index(last) + 1)):
        reason, detail = "transition", "may hold a cross-fade"
    elif clip.pictures < LEAST_PICTURES * clip.count:
        reason, detail = LOW_RATE, f"{clip.pictures} pictures for {clip.count} frames"
    return Window(clip, clip.index(0), clip.index(last) + 1, clip.seconds(0), clip.seconds(last) + 1 / clip.fps, reason, detail)


def shot_rule(name: str, settings: Curation) -> ShotSplit:
    """The thresholds for a source of this name: those of the first rule that matches, else the recipe's."""
    from fnmatch import fnmatchcase
    from unicodedata import normalize

    name = normalize("NFC", name)
    return next((rule.shot for rule in settings.per_source if fnmatchcase(name, normalize("NFC", rule.match))), settings.shot)
