"""What a video file is, read from its headers and its first frame. The errors that every reader of video raises live here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

Source = str | Path | IO[bytes]


class UnreadableVideoError(ValueError):
    """The file holds no frame that can be decoded; the message says why."""


class NoVideoStreamError(UnreadableVideoError):
    """The file is a readable container without a video stream (sound only, cover art only)."""


@dataclass(frozen=True)
class VideoInfo:
    """Sizes in pixels as a viewer shows them: after rotation metadata and sample aspect ratio."""

    codec: str
    width: int
    height: int
    fps: float
    frames: int
    """Frames that the container declares; 0 when it does not say."""
    seconds: float
    """Duration that the container declares; 0 when it does not say."""
    rotation: int
    """Degrees, counterclockwise, that a viewer turns the stored picture: 0, 90, 180 or 270."""
    has_video: bool = True
    bytes: int = 0
    """Size of the file; 0 when the container does not say."""
    bit_rate: int = 0
    """Bits a second that the container declares for the video, else of the whole file; 0 when unknown."""


@contextmanager
def open_container(source: Source) -> Iterator[InputContainer]:
    """An open container. Raises UnreadableVideoError for a file that is not one."""
    file = str(source) if isinstance(source, (str, Path)) else source
    try:
        container = av.open(file)
    except (av.error.FFmpegError, ValueError) as error:
        raise UnreadableVideoError(f"not a video file ({_reason(error)})") from None
    with container:
        yield container


def video_stream(container: InputContainer) -> VideoStream:
    """The first real video stream; cover art does not count. Raises NoVideoStreamError."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise NoVideoStreamError("no video stream")


def probe(source: Source) -> VideoInfo:
    """Facts of a file; decodes one frame, since rotation belongs to frames. Raises UnreadableVideoError; sound alone: has_video False."""
    with open_container(source) as container:
        try:
            stream = video_stream(container)
        except NoVideoStreamError:
            return VideoInfo("", 0, 0, 0.0, 0, 0.0, 0, has_video=False)
        try:
            frame = next(container.decode(stream), None)
        except av.error.FFmpegError as error:
            raise UnreadableVideoError(f"no frame can be decoded ({_reason(error)})") from None
        if frame is None:
            raise UnreadableVideoError("no frame can be decoded (the stream is empty)")
        return describe(container, stream, frame)


def describe(container: InputContainer, stream: VideoStream, frame: av.VideoFrame) -> VideoInfo:
    """VideoInfo from an open stream and its first frame."""
    rotation = frame.rotation % 360 // 90 * 90
    width, height = display_size(stream, frame)
    if rotation in (90, 270):
        width, height = height, width
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / av.time_base
    size = max(0, container.size)
    bits = stream.bit_rate or (round(8 * size / seconds) if seconds > 0 else 0)
    name = stream.codec_context.name
    return VideoInfo(name, width, height, float(rate or 0), stream.frames, seconds, rotation, bytes=size, bit_rate=bits)


def display_size(stream: VideoStream, frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height before rotation, with pixels made square."""
    ratio = stream.sample_aspect_ratio
    if not ratio or ratio == 1:
        return frame.width, frame.height
    return max(1, round(frame.width * ratio)), frame.height


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
