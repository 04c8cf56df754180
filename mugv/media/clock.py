"""When pictures are shown, by their timestamps, and whether a file ended before its time. Counts and lengths in headers are hints."""

from __future__ import annotations

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from mugv.media.probe import VideoInfo, frame_rate, restarts

BACK, FORWARD = 0.1, 10.0
"""Seconds of a step back that is a jump, and of a step forward where streams may be joined (TS, PS, Ogg): as ffmpeg has them."""


class Clock:
    """Seconds since the first picture. A jump of the timestamps goes on at the next picture's time; pictures that do not move forward
    in time are dropped (None)."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container = container
        self.base = float(stream.time_base or 0)
        self.step = 1 / (frame_rate(stream) or 25)
        self.forward = FORWARD if restarts(container) else float("inf")
        self.start: float | None = None
        self.last, self.end = -1.0, 0.0
        """When the last picture was shown, and until when."""
        self.faults, self.stamps = [0, 0], [-(2**63)] * 2
        """Of showing and decoding: how often the time ran back, and the last one."""
        self.jumps = 0
        self.ends: dict[int, int] = {}
        """Of the other streams, in their own units."""

    def seconds(self, picture: av.VideoFrame) -> float | None:
        base, stamp = self.base, self._stamp(picture)
        now = stamp * base if stamp is not None and base else max(0.0, self.last + self.step) + (self.start or 0.0)
        if self.start is None:
            self.start = now
        step = now - self.start - self.last
        if self.last >= 0 and (step < -BACK or step > self.forward):
            self.start += step - self.step
            self.jumps += 1
        now = round(now - self.start, 6)
        if now <= self.last:
            return None
        self.last = now
        self.end = now + (picture.duration * base if picture.duration and base else self.step)
        return now

    def _stamp(self, picture: av.VideoFrame) -> int | None:
        """When it is shown; when it was decoded, once times of showing ran back more often (AVI knows none, and B-frames want some)."""
        for k, told in enumerate((picture.pts, picture.dts)):
            if told is not None:
                self.faults[k] += told <= self.stamps[k]
                self.stamps[k] = told
        return picture.pts if self.faults[0] <= self.faults[1] else picture.dts

    def pass_by(self, packet: Packet[Stream]) -> None:
        """A packet of another stream: sound that goes on after the pictures shows that the file is longer than they are, and whole."""
        if packet.pts is not None:
            index = packet.stream.index
            self.ends[index] = max(self.ends.get(index, 0), packet.pts + (packet.duration or 0))

    def missing(self, info: VideoInfo, count: int) -> str:
        """One line when clearly less was shown than the file declares, else empty. `count`: pictures."""
        if not info.seconds or info.length == "estimated" or (info.frames and count >= 0.98 * info.frames - 1):
            return ""
        if info.length == "file":
            return self._short(max(self.end, self._reached()), 0.95 * info.seconds - 1.0, info)
        return self._short(self.end, 0.98 * info.seconds - self.step, info)

    def _short(self, reached: float, least: float, info: VideoInfo) -> str:
        return f"{self.end:.2f} of {info.seconds:.2f} seconds decode" if reached < least else ""

    def _reached(self) -> float:
        """Seconds of the longest of the other streams."""
        streams = [self.container.streams[index] for index in self.ends]
        spans = (float((self.ends[s.index] - (s.start_time or 0)) * s.time_base) for s in streams if s.time_base is not None)
        return max(spans, default=0.0)
