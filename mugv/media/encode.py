"""Frames to an H.264 file that every player opens."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream


def write_video(
    path: str | Path | IO[bytes],
    frames: Iterable[np.ndarray],
    fps: float,
    crf: int = 17,
    codec: str = "libx264",
    preset: str = "veryfast",
) -> None:
    """Write uint8 RGB frames [T, H, W, 3] as yuv420p MP4 at a constant rate; an odd last row or column is dropped.

    The same frames give the same bytes: one encoder thread, and no macroblock tree, whose decisions were seen to vary from
    run to run at sizes near 100 pixels. Raises ValueError when there is no frame.
    """
    file = str(path) if isinstance(path, (str, Path)) else path
    scaler, stream = VideoReformatter(), None
    with av.open(file, "w", format="mp4") as container:
        for rgb in frames:
            if stream is None:
                stream = _stream(container, rgb, fps, codec, {"crf": str(crf), "preset": preset, "mbtree": "0"})
            even = np.ascontiguousarray(rgb[: stream.height, : stream.width])
            flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
            picture = scaler.reformat(av.VideoFrame.from_ndarray(even, format="rgb24"), format="yuv420p", interpolation=flags, threads=1)
            container.mux(stream.encode(picture))
        if stream is None:
            raise ValueError("a video needs at least one frame")
        container.mux(stream.encode(None))


def _stream(container: av.container.OutputContainer, rgb: np.ndarray, fps: float, codec: str, options: dict[str, str]) -> VideoStream:
    stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options if codec == "libx264" else {})
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    return stream
