"""Cutting a clip out of a file without re-encoding it: its packets as they are, in an MP4 of their own.

Possible where the clip begins on a key frame and wants the source's own frame rate and size; what comes out is decoded and must
be exactly the clip's frames, so a clip whose last frames need packets from beyond its end is re-encoded by the caller.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from mugv.media.decode import read_video
from mugv.media.probe import UnreadableVideoError, VideoInfo, open_container, video_stream
from mugv.media.resize import fit_short_side
from mugv.recipe.curation import Curation

SAME_RATE = 1e-3
"""Frames per second by which two frame rates may differ and still be one."""


class Cut(Protocol):
    """What is needed of a clip; see mugv.curation.windows.Clip."""

    @property
    def count(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def info(self) -> VideoInfo: ...
    @property
    def box(self) -> object: ...
    @property
    def size(self) -> tuple[int, int]: ...
    def seconds(self, k: int) -> float: ...
    def index(self, k: int) -> int: ...
    def key(self, k: int) -> bool: ...
    def frames(self, short_side: int) -> np.ndarray: ...


def copied_clip(path: Path, clip: Cut, settings: Curation) -> bytes | None:
    """An MP4 of the clip's own packets, or None where it must be re-encoded."""
    if not settings.clip.copy_streams or not _fits(clip, settings.clip.short_side):
        return None
    try:
        data = _remuxed(path, clip)
        if data is None:
            return None
        frames, _ = read_video(io.BytesIO(data))
    except (av.error.FFmpegError, UnreadableVideoError, ValueError, OSError):
        return None
    return data if np.array_equal(frames, clip.frames(settings.clip.short_side)) else None


def _fits(clip: Cut, short_side: int) -> bool:
    """Key frame first, every picture once and at its own time, size as it is, upright, progressive, plain colours."""
    last = clip.count - 1
    own_rate = abs(clip.info.fps - clip.fps) < SAME_RATE and clip.index(last) - clip.index(0) == last
    info = clip.info
    as_shown = info.rotation == 0 and not info.mirrored and info.signal.plain
    own_size = clip.box is None and fit_short_side(*clip.size, short_side) == clip.size
    return own_rate and own_size and as_shown and clip.key(0)


def _remuxed(path: Path, clip: Cut) -> bytes | None:
    with open_container(path) as source:
        stream = video_stream(source)
        if stream.sample_aspect_ratio not in (None, 0, 1):
            return None
        packets = _packets(source, stream, clip)
        if packets is None:
            return None
        buffer, start = io.BytesIO(), packets[0].pts
        assert start is not None
        with av.open(buffer, "w", format="mp4") as target:
            copy = target.add_stream_from_template(stream)
            for packet in packets:
                assert packet.pts is not None
                assert packet.dts is not None
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                target.mux(packet)
    return buffer.getvalue()


def _packets(source: InputContainer, stream: VideoStream, clip: Cut) -> list[Packet[VideoStream]] | None:
    """Those of the clip's pictures in decoding order, the key frame first; None when they are not exactly these."""
    assert stream.time_base is not None
    base, first = float(stream.time_base), stream.start_time or 0
    half = 0.5 / clip.fps / base
    start = first + clip.seconds(0) / base
    end = start + clip.count / clip.fps / base - half
    source.seek(round(start), stream=stream)
    found: list[Packet[VideoStream]] = []
    for packet in source.demux(stream):
        if packet.pts is None or packet.dts is None or packet.dts >= end:
            break
        if start - half < packet.pts < end and (found or packet.is_keyframe):
            found.append(packet)
    return found if len(found) == clip.count and abs((found[0].pts or 0) - start) < half else None
