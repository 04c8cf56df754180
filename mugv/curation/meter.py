"""How fast a source was curated, and how near that is to decoding alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Meter:
    """Filled by `curate_source`, summed over the sources of a shard."""

    frames: int = 0
    """Frames decoded."""
    video_seconds: float = 0.0
    """Playing time of what was decoded."""
    decode_seconds: float = 0.0
    """Time that the decoder was at work, without waiting for those who read its frames."""
    wall_seconds: float = 0.0
    """Set by the shard: time from opening a source to its last clip."""

    def add(self, other: Meter) -> None:
        """Count `other` in."""
        self.frames += other.frames
        self.video_seconds += other.video_seconds
        self.decode_seconds += other.decode_seconds
        self.wall_seconds += other.wall_seconds

    def rates(self) -> dict[str, float]:
        """frames_per_second, video_seconds_per_second, decode_share (1: as fast as decoding alone); empty when nothing was decoded."""
        if not self.frames or not self.wall_seconds:
            return {}
        return {
            "frames_per_second": round(self.frames / self.wall_seconds, 1),
            "video_seconds_per_second": round(self.video_seconds / self.wall_seconds, 2),
            "decode_share": round(min(1.0, self.decode_seconds / self.wall_seconds), 4),
        }
