"""Files such as other people's programs write, made with PyAV or by moving bytes."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from footage_tools import encode

TS = 188
"""Bytes of a packet of a transport stream."""


def edited(path: Path, target: Path, first: int) -> Path:
    """The packets from the key frame before frame `first` on; an edit list hides what is before it."""
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = source.streams.video[0]
        start = round(first / stream.average_rate / stream.time_base)
        source.seek(start, stream=stream)
        out = copy.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, out
                copy.mux(packet)
    return target


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(video=0) if packet.size]


def ts(path: Path, frames: np.ndarray | Path, offset: float = 0.0, **form: object) -> Path:
    """A transport stream of frames, or of what a file holds, whose first time stamp is 1 + `offset` seconds."""
    whole = frames if isinstance(frames, Path) else encode(path.with_suffix(".mp4"), frames, **form)
    with av.open(str(whole)) as source, av.open(str(path), "w", format="mpegts") as target:
        stream = source.streams.video[0]
        out = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                later = round((1 + offset) / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + later, packet.dts + later, out
                target.mux(packet)
    whole.unlink()
    return path


def joined(parts: list[Path], target: Path) -> Path:
    """Transport streams one after the other, their packets counted anew, so that none counts as lost."""
    data, counts = bytearray(b"".join(part.read_bytes() for part in parts)), {}
    for at in range(0, len(data), TS):
        kind = _kind(data, at)
        if data[at + 3] & 0x10:
            counts[kind] = (counts.get(kind, -1) + 1) & 15
        data[at + 3] = data[at + 3] & 0xF0 | counts.get(kind, 0)
    target.write_bytes(data)
    return target


def without_packet(path: Path, target: Path, share: float) -> Path:
    """One packet of the pictures is lost, the first after `share` of the file."""
    data = path.read_bytes()
    at = int(len(data) // TS * share) * TS
    while _kind(data, at) != 256:
        at += TS
    target.write_bytes(data[:at] + data[at + TS :])
    return target


def _kind(data: bytes | bytearray, at: int) -> int:
    return (data[at + 1] & 31) << 8 | data[at + 2]


def streams(path: Path, films: list[tuple[np.ndarray, str, bool]]) -> Path:
    """A file of several video streams at 12 frames a second: frames, codec, whether it is the default one."""
    with av.open(str(path), "w") as container:
        outs = []
        for frames, codec, default in films:
            out = container.add_stream(codec, rate=12)
            out.height, out.width = frames.shape[1:3]
            out.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            out.disposition = av.stream.Disposition.default if default else 0
            outs.append(out)
        for (frames, *_), out in zip(films, outs, strict=True):
            for picture in frames:
                container.mux(out.encode(av.VideoFrame.from_ndarray(picture).reformat(format=out.pix_fmt)))
            container.mux(out.encode(None))
    return path


def with_sound(path: Path, frames: np.ndarray, seconds: float, codec: str = "libx264", sound: str = "aac") -> Path:
    """Pictures at 12 a second and so many seconds of silence."""
    with av.open(str(path), "w") as container:
        film, track = container.add_stream(codec, rate=12), container.add_stream(sound, rate=8000)
        film.height, film.width, film.pix_fmt = *frames.shape[1:3], "yuv420p"
        for picture in frames:
            container.mux(film.encode(av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p")))
        container.mux(film.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, round(8000 * seconds)), np.float32), format="fltp", layout="mono")
        silence.sample_rate, silence.time_base = 8000, Fraction(1, 8000)
        container.mux(track.encode(silence))
        container.mux(track.encode(None))
    return path
