"""Frames of a video file in order, scaled while they are converted, so that a 4K file never needs 4K RGB frames.

`VideoReader` is the one decoder: rotation metadata, sample aspect ratio, 10-bit and alpha pixel formats are handled here,
so everything above sees upright 8-bit RGB at a steady meaning of time (seconds from the first frame).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from mugv.media.probe import Source, UnreadableVideoError, VideoInfo, describe, display_size, open_container, video_stream
from mugv.media.resize import fit_short_side

SMALL_PICTURE = 640 * 480
"""Pixels up to which one decoder thread is the fastest."""


@dataclass(frozen=True)
class Frame:
    """One picture: uint8 [H, W, 3] RGB, upright, and when it is shown."""

    index: int
    """Number in the file, from 0."""
    seconds: float
    """Time since the file's first frame."""
    rgb: np.ndarray


class VideoReader:
    """Iterates over the frames of a file, once. `info` is set from the first frame on, `problem` when the file ends too early."""

    def __init__(self, source: Source, short_side: int | None = None) -> None:
        """`short_side`: scale frames down (never up) to this short side, sizes made even; None keeps the size."""
        self.source = source
        self.short_side = short_side
        self.info: VideoInfo | None = None
        self.problem = ""
        """Empty, or one line: where decoding stopped and why."""

    def __iter__(self) -> Iterator[Frame]:
        """Raises UnreadableVideoError (NoVideoStreamError) before the first frame; later errors end the iteration and set `problem`."""
        with open_container(self.source) as container:
            stream = video_stream(container)
            codec = stream.codec_context
            large = codec.width * codec.height > SMALL_PICTURE
            codec.thread_type = "AUTO" if large else "NONE"
            codec.thread_count = 2 if large else 1
            yield from self._frames(container, stream)

    def _frames(self, container: InputContainer, stream: VideoStream) -> Iterator[Frame]:
        convert = _Converter(stream, self.short_side)
        clock = _Clock(stream)
        count, last = 0, 0.0
        for picture in self._pictures(container, stream):
            if self.info is None:
                self.info = describe(container, stream, picture)
            seconds = clock.seconds(picture)
            if seconds is None:
                continue
            yield Frame(count, seconds, convert(picture))
            count, last = count + 1, seconds
        if self.info is None:
            raise UnreadableVideoError(f"no frame can be decoded ({self.problem or 'the stream is empty'})")
        self.problem = self.problem or _missing(self.info, count, last)

    def _pictures(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    self.problem = "a damaged packet"
                    return
                yield from packet.decode()
        except (av.error.FFmpegError, OSError) as error:
            self.problem = getattr(error, "strerror", None) or str(error)


class _Clock:
    """Seconds since the first frame; frames that do not move forward in time are dropped (None)."""

    def __init__(self, stream: VideoStream) -> None:
        self.base = stream.time_base
        self.step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        self.start: float | None = None
        self.last = -1.0

    def seconds(self, picture: av.VideoFrame) -> float | None:
        base = picture.time_base or self.base
        now = float(picture.pts * base) if picture.pts is not None and base else max(0.0, self.last + self.step) + (self.start or 0.0)
        if self.start is None:
            self.start = now
        now = round(now - self.start, 6)
        if now <= self.last:
            return None
        self.last = now
        return now


class _Converter:
    """A decoded picture of any pixel format to upright RGB; the scaler is kept from frame to frame."""

    def __init__(self, stream: VideoStream, short_side: int | None) -> None:
        self.stream = stream
        self.short_side = short_side
        self.scaler = VideoReformatter()

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        width, height = display_size(self.stream, picture)
        if self.short_side is not None:
            height, width = fit_short_side(height, width, self.short_side)
        alpha = any(part.is_alpha for part in picture.format.components)
        shrinks = width < picture.width
        flags = Interpolation.ACCURATE_RND | (Interpolation.AREA if shrinks else Interpolation.BICUBIC)
        if picture.width * picture.height <= SMALL_PICTURE:
            flags |= Interpolation.FULL_CHR_H_INT
        picture.pts = None
        scaled = self.scaler.reformat(picture, width, height, "rgba" if alpha else "rgb24", interpolation=flags, threads=1)
        rgb = scaled.to_ndarray()
        if alpha:
            rgb = _over_black(rgb)
        turns = picture.rotation % 360 // 90
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def read_video(source: Source, max_frames: int | None = None, short_side: int | None = None) -> tuple[np.ndarray, float]:
    """Frames uint8 [T, H, W, 3] and frames per second. Raises UnreadableVideoError, also when the file ends too early."""
    reader = VideoReader(source, short_side)
    frames = []
    for frame in reader:
        frames.append(frame.rgb)
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


def _over_black(rgba: np.ndarray) -> np.ndarray:
    """[H, W, 4] to [H, W, 3]: what is transparent becomes black."""
    return ((rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127) // 255).astype(np.uint8)


def _missing(info: VideoInfo, count: int, last: float) -> str:
    """One line when clearly fewer frames came than the container declares, else empty."""
    if info.frames and count < 0.98 * info.frames - 1:
        return f"{count} of {info.frames} frames decode"
    if not info.frames and info.seconds and last < 0.95 * info.seconds - 1.0:
        return f"{last:.2f} of {info.seconds:.2f} seconds decode"
    return ""
