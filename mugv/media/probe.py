"""What a video file is, read from its headers and its first frame. The errors that every reader of video raises live here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from mugv.media.formats import FORMATS
from mugv.media.orientation import MIRRORED, orientation
from mugv.media.signal import Signal, signal_of

Source = str | Path | IO[bytes]
NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
"""Cover art, thumbnails, parts of another stream."""
DEFAULT_WORTH = 5_000_000
"""Pixels that the mark `default` outweighs, as in ffmpeg's choice."""
FASTEST = 1000
"""Frames per second; a higher rate is one of timestamps, not of pictures."""
RESTARTS = 0x200
"""libav's flag of formats whose streams may be joined, timestamps beginning anew (TS, PS, Ogg)."""
FILE_LENGTH = ("asf", "asf_o")
"""Formats in which libav gives every stream the length of the file."""
JUMP = 10.0
"""Seconds between two packets of such a stream that are a jump, not a pause."""


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
    """Frames that the container declares, a hint: those that an edit list hides and empty ones count; 0 when it does not say."""
    seconds: float
    """Duration of the video that the container declares; 0 when it does not say."""
    rotation: int
    """Degrees, counterclockwise, that a viewer turns the stored picture (mirrored before, when it is): 0, 90, 180 or 270."""
    has_video: bool = True
    bytes: int = 0
    """Size of the file; 0 when the container does not say."""
    bit_rate: int = 0
    """Bits a second that the container declares for the video, else of the whole file; 0 when unknown."""
    length: Literal["own", "file", "estimated"] = "own"
    """What `seconds` are: of the video, of the longest stream, or no statement of the file but what its packets give."""
    mirrored: bool = False
    """A viewer mirrors the stored picture left to right."""
    signal: Signal = field(default_factory=Signal)


@contextmanager
def open_container(source: Source) -> Iterator[InputContainer]:
    """An open container. Raises UnreadableVideoError for a file that is not one, or one that shows other files."""
    file = f"file:{source}" if isinstance(source, (str, Path)) else source
    limits = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        container = av.open(file, container_options=limits, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        raise UnreadableVideoError(f"not a video file ({reason(error)})") from None
    with container:
        yield container


def video_stream(container: InputContainer) -> VideoStream:
    """The stream that players take: the largest, where the mark `default` makes up for much. Raises NoVideoStreamError."""
    films = [stream for stream in container.streams.video if not stream.disposition & NO_FILM]
    if not films:
        raise NoVideoStreamError("no video stream")
    readable = [stream for stream in films if stream.codec_context is not None]
    if not readable:
        raise UnreadableVideoError("no frame can be decoded (unknown codec)")
    return max(readable, key=_worth)


def _worth(stream: VideoStream) -> int:
    pixels = stream.codec_context.width * stream.codec_context.height
    return pixels and pixels + DEFAULT_WORTH * bool(stream.disposition & Disposition.default)


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
            raise UnreadableVideoError(f"no frame can be decoded ({reason(error)})") from None
        if frame is None:
            raise UnreadableVideoError("no frame can be decoded (the stream is empty)")
        return describe(source, container, stream, frame)


def describe(source: Source, container: InputContainer, stream: VideoStream, frame: av.VideoFrame) -> VideoInfo:
    """VideoInfo from an open stream and its first frame."""
    how = orientation(frame)
    width, height = display_size(stream, frame)
    length, seconds = _length(container, stream)
    size = max(0, container.size)
    bits = stream.bit_rate or (round(8 * size / seconds) if seconds > 0 else 0)
    if length == "estimated" and isinstance(source, (str, Path)):
        seconds, bits = _measured(source, stream.index)
    return VideoInfo(
        codec=stream.codec_context.name,
        width=height if how % 2 else width,
        height=width if how % 2 else height,
        fps=frame_rate(stream),
        frames=stream.frames,
        seconds=seconds,
        rotation=how % MIRRORED * 90,
        bytes=size,
        bit_rate=bits,
        length=length,
        mirrored=how >= MIRRORED,
        signal=signal_of(frame, stream.codec_context.field_order),
    )


def frame_rate(stream: VideoStream) -> float:
    """Mean frames per second; 0 when nothing plausible is known. Of raw DV, libav's mean is its rate of timestamps."""
    rates = stream.average_rate, stream.guessed_rate, stream.base_rate
    return float(next((rate for rate in rates if rate and rate <= FASTEST), 0))


def restarts(container: InputContainer) -> bool:
    """Whether timestamps may jump: pieces of this format can be joined as they are."""
    return bool(container.format.flags & RESTARTS)


def _length(container: InputContainer, stream: VideoStream) -> tuple[Literal["own", "file", "estimated"], float]:
    if restarts(container):
        return "estimated", (container.duration or 0) / av.time_base
    if stream.duration is not None and stream.time_base is not None and container.format.name not in FILE_LENGTH:
        return "own", float(stream.duration * stream.time_base)
    before = _first_second(container, stream)
    if told := _clock_time(stream.metadata.get("DURATION", "")):
        return "own", max(0.0, told - before)
    return "file", max(0.0, (container.duration or 0) / av.time_base - before)


def _first_second(container: InputContainer, stream: VideoStream) -> float:
    """Where a Matroska file begins: its durations count from 0, also of a recording that was cut out at its old timestamps."""
    if "matroska" not in container.format.name or stream.start_time is None or stream.time_base is None:
        return 0.0
    return max(0.0, float(stream.start_time * stream.time_base))


def _clock_time(text: str) -> float:
    """Seconds of Matroska's `00:01:02.500000000`; 0 for anything else."""
    parts = text.split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return 0.0
    total = 3600 * hours + 60 * minutes + seconds
    # float() also reads nan and inf.
    return total if 0 < total < math.inf else 0.0


def _measured(source: Source, index: int) -> tuple[float, int]:
    """Seconds of a stream without its jumps, and bits a second: its packets are read, not decoded."""
    seconds, size, last = 0.0, 0, None
    with open_container(source) as container, suppress(av.error.FFmpegError):
        stream = container.streams[index]
        base = float(stream.time_base or 0)
        for packet in packets(container, stream):
            size += packet.size
            if packet.dts is not None:
                step = (packet.dts - last) * base if last is not None else 0.0
                seconds += step if 0 < step <= JUMP else 0.0
                last = packet.dts
    return seconds, round(8 * size / seconds) if seconds > 0 else 0


def packets(container: InputContainer, *streams: Stream) -> Iterator[Packet[Stream]]:
    """Of some streams, or all. PyAV fails at the very end when a stream came up that was not there at the beginning."""
    with suppress(IndexError):
        yield from container.demux(*streams)


def display_size(stream: VideoStream, frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height before rotation, with pixels made square."""
    ratio = stream.sample_aspect_ratio
    if not ratio or ratio == 1:
        return frame.width, frame.height
    return max(1, round(frame.width * ratio)), frame.height


def reason(error: Exception) -> str:
    """One line of what libav says."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
