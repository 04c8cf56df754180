"""Small real files of many containers and codecs, for mutations to begin with."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np

from mugv.media.shapes import render, sample_motion, seen_combinations

KINDS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "h264.mp4": ("mp4", "libx264", "yuv420p", {}),
    "fragments.mp4": ("mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "index_first.mov": ("mov", "mpeg4", "yuv420p", {"movflags": "faststart"}),
    "hevc.mkv": ("matroska", "libx265", "yuv420p10le", {}),
    "ffv1.mkv": ("matroska", "ffv1", "yuv444p", {}),
    "vp9.webm": ("webm", "libvpx-vp9", "yuv420p", {}),
    "vp8.webm": ("webm", "libvpx", "yuv420p", {}),
    "mpeg4.avi": ("avi", "mpeg4", "yuv420p", {}),
    "mjpeg.avi": ("avi", "mjpeg", "yuvj420p", {}),
    "h264.ts": ("mpegts", "libx264", "yuv420p", {}),
    "mpeg2.mts": ("mpegts", "mpeg2video", "yuv420p", {}),
    "mpeg2.vob": ("vob", "mpeg2video", "yuv420p", {}),
    "mpeg2.mxf": ("mxf", "mpeg2video", "yuv420p", {}),
    "flv1.flv": ("flv", "flv", "yuv420p", {}),
    "theora.ogv": ("ogg", "libtheora", "yuv420p", {}),
    "wmv2.wmv": ("asf", "wmv2", "yuv420p", {}),
    "picture.gif": ("gif", "gif", "rgb8", {}),
    "picture.apng": ("apng", "apng", "rgb24", {}),
    "raw.y4m": ("yuv4mpegpipe", "wrapped_avframe", "yuv420p", {}),
    "raw.h264": ("h264", "libx264", "yuv420p", {}),
    "av1.ivf": ("ivf", "libsvtav1", "yuv420p", {}),
    "prores.mov": ("mov", "prores_ks", "yuv422p10le", {}),
}
"""Name -> container, codec, pixel format, options of the container."""
FRAMES, SIZE, FPS = 20, 96, 25


def write_footage(folder: Path, kinds: tuple[str, ...] = tuple(KINDS)) -> list[Path]:
    """A file of two shots of each kind that this build of libav can write."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SVT_LOG", "0")
    frames = np.concatenate([_shot(1), _shot(2)])
    found = []
    for name in kinds:
        try:
            found.append(write(folder / name, frames, *KINDS[name]))
        except (av.error.FFmpegError, ValueError):
            (folder / name).unlink(missing_ok=True)
    return found


def write(path: Path, frames: np.ndarray, container: str, codec: str, pixels: str, options: dict[str, str]) -> Path:
    """A file of uint8 frames [T, H, W, 3] (RGB)."""
    with av.open(str(path), "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.gop_size = 12
        stream.options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        for picture in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=pixels)))
        file.mux(stream.encode(None))
    return path


def _shot(number: int) -> np.ndarray:
    """uint8 [FRAMES, SIZE, SIZE, 3]: a shape that moves."""
    rng = np.random.default_rng(number)
    combination = seen_combinations()[7 * number % 60]
    return render(combination, sample_motion(combination, FRAMES, rng), FRAMES, SIZE, rng)
