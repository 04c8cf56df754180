"""Frames of a video file in order. A frame computes its pixels when they are asked for, from the decoder's own planes.

`VideoReader` is the one decoder: rotation metadata, sample aspect ratio, 10-bit and alpha pixel formats are handled here and
in `picture`, so everything above sees upright 8-bit pictures and a steady meaning of time (seconds from the first frame).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from mugv.media.clock import Clock
from mugv.media.interlace import Deinterlacer
from mugv.media.orientation import Box
from mugv.media.picture import Converter, Decoded, Picture, Pixels
from mugv.media.probe import Source, UnreadableVideoError, VideoInfo, describe, open_container, packets, reason, restarts, video_stream
from mugv.media.resize import fit_short_side
from mugv.media.signal import refusal
from mugv.media.track import Track

T = TypeVar("T")
ONE_THREAD = 1024 * 576
"""Pixels up to which one decoder thread is used: what is made of the frames takes the other core."""
LARGE_THREADS = 4
"""For larger ones: on two cores decoding alone is as fast with two, but these can wait for what is made of the frames."""
KEPT_BYTES = 2**20
"""Of arrays that a frame keeps once they are made."""
REORDERED = 4
"""Pictures by which the order of decoding may differ from that of showing."""


class Frame:
    """One picture and when it is shown. Arrays are made on demand; small ones are kept."""

    __slots__ = ("_cache", "_limit", "corrupt", "index", "key", "picture", "piece", "seconds")

    def __init__(
        self,
        index: int,
        seconds: float,
        picture: Picture,
        limit: int | None = None,
        key: bool = False,
        corrupt: bool = False,
        piece: int = 0,
    ) -> None:
        self.index = index
        """Number in the file, from 0."""
        self.seconds = seconds
        """Time since the file's first frame."""
        self.key = key
        """A key frame: decoding can begin here."""
        self.corrupt = corrupt
        """The decoder concealed damage here, or in a picture that this one is built on; or what follows shows that there is some."""
        self.piece = piece
        """Number of the part of a joined file: where timestamps jump, another one begins."""
        self.picture = picture
        self._limit = limit
        self._cache: dict[tuple[str, int, Box | None], np.ndarray] = {}

    @classmethod
    def from_rgb(cls, index: int, seconds: float, rgb: np.ndarray) -> Frame:
        """A frame of uint8 [H, W, 3]."""
        return cls(index, seconds, Pixels(rgb))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the source, upright, pixels square."""
        return self.picture.size

    def luma(self, short_side: int, box: Box | None = None) -> np.ndarray:
        """Brightness uint8 [h, w], full range, scaled down (never up) to the short side, sizes even; `box` in source pixels."""
        return self.kept("luma", short_side, box, lambda: self.picture.luma(*self._fit(short_side, box), box))

    def bgr(self, short_side: int, box: Box | None = None) -> np.ndarray:
        """uint8 [h, w, 3] in OpenCV's order, as `luma`."""
        return self.kept("bgr", short_side, box, lambda: self.picture.bgr(*self._fit(short_side, box), box))

    def rgb(self, short_side: int | None = None, box: Box | None = None) -> np.ndarray:
        """uint8 [h, w, 3] by the exact conversion of the source's colours; None: the reader's short side, else the whole size."""
        return self.picture.rgb(*self._fit(short_side or self._limit, box), box)

    def kept(self, form: str, short_side: int, box: Box | None, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What `make` gives: made once when it is small, since windows of one shot share frames."""
        key = (form, short_side, box)
        if (found := self._cache.get(key)) is not None:
            return found
        made = make()
        if made.nbytes <= KEPT_BYTES:
            self._cache[key] = made
        return made

    def _fit(self, short_side: int | None, box: Box | None) -> tuple[int, int]:
        height, width = self.size if box is None else (box[3], box[2])
        return (height, width) if short_side is None else fit_short_side(height, width, short_side)


@dataclass(slots=True)
class Shown(Generic[T]):
    """What was kept of a picture, and of the picture what `Frame` has."""

    kept: T | None
    """None, and index -1, for a picture that does not move forward in time."""
    index: int
    seconds: float
    key: bool
    intra: bool
    """Built on no other picture. At a cut soon after a key frame, x264 writes such a one that is no key frame."""
    damage: int | None
    """Where, in the order of decoding, damage begins that this picture is the first to show."""
    order: int
    """Its place in the order of decoding."""
    corrupt: bool = False
    """The decoder concealed damage in it; once judged: or in one that it is built on."""
    piece: int = 0


class VideoReader:
    """Iterates over the frames of a file, once. `info` is set from the first frame on, `problem` when the file ends too early."""

    def __init__(self, source: Source, short_side: int | None = None) -> None:
        """`short_side`: what `Frame.rgb()` is scaled down to (never up) when it is not told, sizes made even; None keeps the size."""
        self.source = source
        self.short_side = short_side
        self.info: VideoInfo | None = None
        self.threads = 1
        """Of the decoder; set when reading begins."""
        self.problem = ""
        """Empty, or one line: where decoding stopped and why."""
        self.busy_seconds = 0.0
        """Time spent in the decoder."""
        self.count = 0
        """Frames so far."""
        self.seconds = 0.0
        """When the last of them is shown."""

    def __iter__(self) -> Iterator[Frame]:
        """As `read`."""
        for shown in self.read(lambda picture: picture):
            assert shown.kept is not None
            yield Frame(shown.index, shown.seconds, shown.kept, self.short_side, shown.key, shown.corrupt, shown.piece)

    def read(self, keep: Callable[[Decoded], T]) -> Iterator[Shown[T]]:
        """What `keep` makes of every picture, called as soon as it is decoded: what waits here is what was kept.

        Raises UnreadableVideoError (NoVideoStreamError) before the first frame; later errors end the iteration and set `problem`.
        """
        with open_container(self.source) as container:
            stream = video_stream(container)
            codec = stream.codec_context
            self.threads = LARGE_THREADS if codec.width * codec.height > ONE_THREAD else 1
            yield from (shown for shown in _judged(self._shown(container, stream, keep)) if shown.index >= 0)

    def _shown(self, container: InputContainer, stream: VideoStream, keep: Callable[[Decoded], T]) -> Iterator[Shown[T]]:
        converters = _Converters(stream.codec_context.name)
        track, clock, fields = Track(stream, self.threads, restarts(container)), Clock(container, stream), Deinterlacer[Shown[T]]()

        def kept(pictures: Iterable[tuple[av.VideoFrame, Shown[T]]]) -> Iterator[Shown[T]]:
            for picture, its in pictures:
                its.kept = keep(Decoded(picture, converters[track.ratio(its.order)]))
                yield its

        for picture in self._pictures(container, stream, track, clock):
            if self.info is None:
                if why := refusal(picture):
                    raise UnreadableVideoError(why)
                self.info = describe(self.source, container, stream, picture)
            shown: Shown[T] = self._placed(picture, track, clock)
            yield from kept(fields.feed(picture, shown)) if shown.index >= 0 else [shown]
        yield from kept(fields.finish())
        if self.info is None:
            raise UnreadableVideoError(f"no frame can be decoded ({self.problem or track.refused or 'the stream is empty'})")
        self.problem = self.problem or clock.missing(self.info, self.count)

    def _placed(self, picture: av.VideoFrame, track: Track, clock: Clock) -> Shown[T]:
        """Its place in time and in the order of decoding; nothing is kept yet."""
        order, seconds = track.order(picture), clock.seconds(picture)
        intra = picture.key_frame or picture.pict_type == PictureType.I
        marks = picture.key_frame, intra, track.damage(order, picture.is_corrupt), order, picture.is_corrupt, clock.jumps
        if seconds is None:
            return Shown(None, -1, self.seconds, *marks)
        self.count, self.seconds = self.count + 1, seconds
        return Shown(None, self.count - 1, seconds, *marks)

    def _pictures(self, container: InputContainer, stream: VideoStream, track: Track, clock: Clock) -> Iterator[av.VideoFrame]:
        begun = time.perf_counter()
        try:
            for packet in packets(container):
                if packet.stream is not stream:
                    clock.pass_by(packet)
                    continue
                pictures = track.decoded(packet)
                self.busy_seconds += time.perf_counter() - begun
                yield from pictures
                begun = time.perf_counter()
        except (av.error.FFmpegError, OSError) as error:
            self.problem = reason(error)


class _Converters(dict[Fraction | None, Converter]):
    """By the width of a pixel."""

    def __init__(self, codec: str) -> None:
        self.codec = codec

    def __missing__(self, ratio: Fraction | None) -> Converter:
        return self.setdefault(ratio, Converter(ratio, self.codec))


def _judged(pictures: Iterable[Shown[T]]) -> Iterator[Shown[T]]:
    """Marks those in which damage shows: from where it begins to the next intra picture, in the order of decoding. Pictures wait a
    little, since one that is shown before the damaged one may be built on it."""
    waiting: deque[Shown[T]] = deque()
    since: int | None = None
    for picture in pictures:
        if picture.damage is not None:
            since = picture.damage if since is None else min(since, picture.damage)
            for shown in waiting:
                shown.corrupt = shown.corrupt or shown.order > picture.damage
        if since is not None and picture.intra and not picture.corrupt and picture.order > since:
            since = None
        picture.corrupt = since is not None and picture.order >= since
        waiting.append(picture)
        if len(waiting) > REORDERED:
            yield waiting.popleft()
    yield from waiting


def read_video(source: Source, max_frames: int | None = None, short_side: int | None = None) -> tuple[np.ndarray, float]:
    """Frames uint8 [T, H, W, 3] and frames per second. Raises UnreadableVideoError, also when the file ends too early."""
    reader = VideoReader(source, short_side)
    frames = []
    for frame in reader:
        frames.append(frame.rgb())
        if len(frames) == max_frames:
            break
    if reader.problem:
        raise UnreadableVideoError(reader.problem)
    assert reader.info is not None
    return np.stack(frames), reader.info.fps


def resample(frames: Iterable[Frame], fps: float) -> Iterator[Frame]:
    """Frames at `fps` from the first one on, by timestamps: at each tick the picture that a player shows then.

    A tenth of an interval of slack absorbs containers that round times to milliseconds.
    """
    tick, start, step = 0, 0.0, 1 / fps
    held: Frame | None = None
    for frame in frames:
        if held is None:
            start = frame.seconds
        else:
            step = frame.seconds - held.seconds
            while start + (tick + 0.1) / fps < frame.seconds:
                yield held
                tick += 1
        held = frame
    while held is not None and start + (tick + 0.1) / fps < held.seconds + step:
        yield held
        tick += 1
