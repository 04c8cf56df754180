"""From packets to pictures: which decoder, which picture came from which packet, which packets were damaged, how wide pixels are."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.packet import Packet
from av.video.stream import VideoStream

from mugv.media.probe import reason

REMEMBERED = 256
"""Packets whose pictures may still come."""
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that do not drop the transparency."""


class Track:
    """The pictures of a stream. Packets are numbered as they are decoded: the order of decoding."""

    def __init__(self, stream: VideoStream, threads: int, follow_ratio: bool = False) -> None:
        """`follow_ratio`: the width of a pixel is what the pictures say, and may change (broadcasts), not what the container says once."""
        self.codec = codec = _decoder(stream)
        self.follow_ratio = follow_ratio
        self.ratios = [(0, stream.sample_aspect_ratio)]
        codec.thread_type = "AUTO" if threads > 1 else "NONE"
        codec.thread_count = threads
        self.count = 0
        self.numbers: dict[int | None, int] = {}
        self.damaged: list[int] = []
        """Numbers of packets that came damaged or were refused, as far as no picture has shown it yet."""
        self.refused = ""
        """What the decoder said of the last packet that it did not take."""

    def decoded(self, packet: Packet[Any]) -> list[av.VideoFrame]:
        """The pictures that this packet lets out. One that is damaged or refused costs what is built on it, no more."""
        self.count += 1
        self.numbers[packet.pts] = self.count
        if len(self.numbers) > REMEMBERED:
            del self.numbers[next(iter(self.numbers))]
        if packet.is_corrupt:
            self.damaged.append(self.count)
        try:
            pictures = self.codec.decode(packet)
        except av.error.FFmpegError as error:
            self.damaged.append(self.count)
            self.refused = reason(error)
            return []
        if self.follow_ratio and (ratio := self.codec.sample_aspect_ratio) != self.ratios[-1][1]:
            self.ratios = [*self.ratios[-REMEMBERED:], (self.count, ratio)]
        return pictures

    def ratio(self, order: int) -> Fraction | None:
        """Width of a pixel over its height in the picture of this packet."""
        return next((ratio for number, ratio in reversed(self.ratios) if number <= order), self.ratios[0][1])

    def order(self, picture: av.VideoFrame) -> int:
        """The number of its packet; of the last one where the file does not tell."""
        return self.numbers.pop(picture.pts, self.count)

    def damage(self, order: int, concealed: bool) -> int | None:
        """The number of the damaged packet that this picture is the first to show, its own when the decoder concealed damage in it;
        None: it shows none."""
        found = [number for number in self.damaged if number <= order]
        self.damaged = [number for number in self.damaged if number > order]
        return min([*found, order] if concealed else found, default=None)


def _decoder(stream: VideoStream) -> av.VideoCodecContext:
    """libav's own; where the container says that there is transparency, one that reads it."""
    told = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode")
    name = WITH_ALPHA.get(stream.codec_context.name)
    if told != "1" or name is None or name not in av.codecs_available:
        return stream.codec_context
    codec = av.CodecContext.create(name, "r")
    assert isinstance(codec, av.VideoCodecContext)
    return codec
