"""What a score is: a name, the pictures that it wants, and a clip to a number."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from mugv.media.probe import VideoInfo

Box = tuple[int, int, int, int]
"""left, top, width, height in upright source pixels."""


class Clip(Protocol):
    """Frames of one candidate on the clip's grid; what a score may ask of it."""

    @property
    def count(self) -> int:
        """Frames of the clip."""

    @property
    def fps(self) -> float:
        """Frames of the clip a second."""

    @property
    def info(self) -> VideoInfo:
        """Facts of the source file."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the (cropped) picture in upright source pixels."""

    def seconds(self, k: int) -> float:
        """When the source shows the picture of frame k."""

    def index(self, k: int) -> int:
        """Number of that picture in the source; neighbours share one where the source's frame rate is lower than the clip's."""

    def luma(self, k: int, short_side: int) -> np.ndarray:
        """Brightness uint8 [h, w], full range, scaled down (never up) to the short side."""

    def bgr(self, k: int, short_side: int) -> np.ndarray:
        """uint8 [h, w, 3] in OpenCV's order by the fast conversion, as `luma`."""

    def rgb(self, k: int, short_side: int) -> np.ndarray:
        """uint8 [h, w, 3] by the exact conversion, scaled down (never up) to the short side."""

    def crop(self, box: Box) -> Clip:
        """The same frames without what lies outside the box."""


@dataclass(frozen=True)
class Input:
    """The pictures that a score reads. The decoder keeps no more of a frame than its scores declare."""

    form: Literal["luma", "bgr", "rgb", "none"] = "none"
    """none: facts of the source alone."""
    short_side: int = 0
    """Pixels; smaller pictures are not scaled up."""
    frames: int | Literal["all", "pairs"] = 0
    """How many, evenly spaced; all of them; or the pairs of optical flow."""
    largest: int | None = None
    """Short side of the largest source that the score reads; None: any."""


class Score(Protocol):
    """One number about a clip. `name` is its column in ClipRow and its key in the recipe."""

    name: str
    input: Input

    def __call__(self, clip: Clip) -> float | None:
        """The score in its class's unit; None when it cannot be measured on this clip."""


Result = TypeVar("Result")


class Once(Generic[Result]):
    """Remembers a function's result for the last clip, for what several scores share. Holds no clip alive."""

    def __init__(self, function: Callable[[Clip], Result]) -> None:
        self.function = function
        self.last: tuple[weakref.ref[Clip], Result] | None = None

    def __call__(self, clip: Clip) -> Result:
        last = self.last
        if last is not None and last[0]() is clip:
            return last[1]
        result = self.function(clip)
        self.last = weakref.ref(clip), result
        return result


def spread(count: int, wanted: int) -> Sequence[int]:
    """At most `wanted` frame numbers, evenly spaced, first and last among them; the middle one when one is wanted."""
    if wanted >= count:
        return range(count)
    if wanted == 1:
        return [count // 2]
    return [round(k * (count - 1) / (wanted - 1)) for k in range(wanted)]


def short_reason(error: Exception) -> str:
    """The first sentence of an error's message: libraries add advice that a user of ours cannot follow."""
    lines = str(error).splitlines()
    return lines[0].split(". ")[0].rstrip(":. ") if lines else type(error).__name__
