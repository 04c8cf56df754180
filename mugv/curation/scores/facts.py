"""Scores that the source's own facts give, and the facts that are columns."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mugv.curation.scores.base import Clip, Input
from mugv.media.probe import VideoInfo


def signal_facts(info: VideoInfo) -> dict[str, Any]:
    """Columns of the manifest: how the source's pictures are stored, before they were made upright, progressive and BT.709."""
    return asdict(info.signal) | {"rotation": info.rotation, "mirrored": info.mirrored}


class BitsPerPixel:
    """Bits of the source's stream a pixel and frame; None when the container tells neither its size nor its length."""

    name = "bits_per_pixel"
    input = Input()

    def __call__(self, clip: Clip) -> float | None:
        info = clip.info
        pixels = info.width * info.height * info.fps
        rate: float = getattr(info, "bit_rate", 0.0)
        return rate / pixels if rate and pixels else None


class SourceSeconds:
    """Length of the source, seconds; None when the container does not say."""

    name = "source_seconds"
    input = Input()

    def __call__(self, clip: Clip) -> float | None:
        return clip.info.seconds or None


class SourceFps:
    """Mean frame rate of the source."""

    name = "source_fps"
    input = Input()

    def __call__(self, clip: Clip) -> float | None:
        return clip.info.fps or None


class Aspect:
    """Width over height of the picture without its borders."""

    name = "aspect"
    input = Input()

    def __call__(self, clip: Clip) -> float:
        height, width = clip.size
        return width / height
