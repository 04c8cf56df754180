"""Frames of a video file in order. A frame computes its pixels when they are asked for, from the decoder's own planes.

`VideoReader` is the one decoder: rotation metadata, sample aspect ratio, 10-bit and alpha pixel formats are handled here and
in `picture`, so everything above sees upright 8-bit pictures and a steady meaning of time (seconds from the first frame).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType
from av.video.stream import VideoStream

from mugv.media.picture import Box, Converter, Decoded, Picture, Pixels
from mugv.media.probe import Source, UnreadableVideoError, VideoInfo, describe, open_container, video_stream
from mugv.media.resize import fit_short_side

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

    __slots__ = ("_cache", "_limit", "corrupt", "index", "key", "picture", "seconds")

    def __init__(
        self, index: int, seconds: float, picture: Picture, limit: int | None = None, key: bool = False, corrupt: bool = False
    ) -> None:
        self.index = index
        """Number in the file, from 0."""
        self.seconds = seconds
        """Time since the file's first frame."""
        self.key = key
        """A key frame: decoding can begin here."""
        self.corrupt = corrupt
        """The decoder concealed damage here, or in a picture that this one is built on; or what follows shows that there is some."""
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
    corrupt: bool
    order: int
    """Its place in the order of decoding."""


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
            yield Frame(shown.index, shown.seconds, shown.kept, self.short_side, shown.key, shown.corrupt)

    def read(self, keep: Callable[[Decoded], T]) -> Iterator[Shown[T]]:
        """What `keep` makes of every picture, called as soon as it is decoded: what waits here is what was kept.

        Raises UnreadableVideoError (NoVideoStreamError) before the first frame; later errors end the iteration and set `problem`.
        """
        with open_container(self.source) as container:
            stream = video_stream(container)
            codec = stream.codec_context
            self.threads = LARGE_THREADS if codec.width * codec.height > ONE_THREAD else 1
            codec.thread_type = "AUTO" if self.threads > 1 else "NONE"
            codec.thread_count = self.threads
            yield from (shown for shown in _judged(self._shown(container, stream, keep)) if shown.index >= 0)

    def _shown(self, container: InputContainer, stream: VideoStream, keep: Callable[[Decoded], T]) -> Iterator[Shown[T]]:
        converter = Converter(stream.sample_aspect_ratio, stream.codec_context.name)
        clock = _Clock(stream)
        for number, picture in enumerate(self._pictures(container, stream)):
            if self.info is None:
                self.info = describe(container, stream, picture)
            order = picture.dts if picture.dts is not None else number
            seconds = clock.seconds(picture)
            how = picture.key_frame, picture.key_frame or picture.pict_type == PictureType.I, picture.is_corrupt, order
            if seconds is None:
                yield Shown(None, -1, self.seconds, *how)
                continue
            self.count, self.seconds = self.count + 1, seconds
            kept = keep(Decoded(picture, converter))
            yield Shown(kept, self.count - 1, seconds, *how)
        if self.info is None:
            raise UnreadableVideoError(f"no frame can be decoded ({self.problem or 'the stream is empty'})")
        self.problem = self.problem or _missing(self.info, self.count, self.seconds)

    def _pictures(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        begun = time.perf_counter()
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    self.problem = "a damaged packet"
                    return
                pictures = packet.decode()
                self.busy_seconds += time.perf_counter() - begun
                yield from pictures
                begun = time.perf_counter()
        except (av.error.FFmpegError, OSError) as error:
            self.problem = getattr(error, "strerror", None) or str(error)


def _judged(pictures: Iterable[Shown[T]]) -> Iterator[Shown[T]]:
    """Marks those in which damage shows: from one that the decoder had to conceal to the next intra picture, in the order of
    decoding. Pictures wait a little, since one that is shown before the damaged one may be built on it."""
    waiting: deque[Shown[T]] = deque()
    since: int | None = None
    for picture in pictures:
        if picture.corrupt:
            since = picture.order if since is None else min(since, picture.order)
            for shown in waiting:
                shown.corrupt = shown.corrupt or shown.order > picture.order
        elif since is not None and picture.intra and picture.order > since:
            since = None
        picture.corrupt = since is not None and picture.order >= since
        waiting.append(picture)
        if len(waiting) > REORDERED:
            yield waiting.popleft()
    yield from waiting


class _Clock:
    """Seconds since the first frame; frames that do not move forward in time are dropped (None)."""

    def __init__(self, stream: VideoStream) -> None:
        self.base = float(stream.time_base or 0)
        self.step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        self.start: float | None = None
        self.last = -1.0

    def seconds(self, picture: av.VideoFrame) -> float | None:
        told = picture.pts is not None and self.base
        now = picture.pts * self.base if told else max(0.0, self.last + self.step) + (self.start or 0.0)
        if self.start is None:
            self.start = now
        now = round(now - self.start, 6)
        if now <= self.last:
            return None
        self.last = now
        return now


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


def _missing(info: VideoInfo, count: int, last: float) -> str:
    """One line when clearly fewer frames came than the container declares, else empty."""
    if info.frames and count < 0.98 * info.frames - 1:
        return f"{count} of {info.frames} frames decode"
    if not info.frames and info.seconds and last < 0.95 * info.seconds - 1.0:
        return f"{last:.2f} of {info.seconds:.2f} seconds decode"
    return ""
