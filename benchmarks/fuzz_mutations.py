"""Mutations of video files: bytes, and the boxes of their containers (MP4 atoms, EBML elements, RIFF chunks, packets of MPEG-TS)."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass

ODD = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
"""Numbers at which arithmetic turns."""
MP4_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"udta", b"dinf", b"meta"}
EBML_PARENTS = {0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE, 0xE0, 0xA0, 0x1549A966, 0x1C53BB6B, 0x114D9B74, 0xBB, 0xB7}
TS_PACKET = 188
MOST = 5000
"""Boxes of a file that are looked at."""
HEAD = 4096


@dataclass(frozen=True)
class Box:
    """A part of a file: its header from `start` to `body`, its content from there to `end`."""

    start: int
    body: int
    end: int


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four mutations, one after the other; never empty."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        found = boxes(data) if rng.random() < 0.6 else []
        data = (_in_boxes(data, found, rng) if len(found) > 1 else _in_bytes(data, rng)) or b"\0"
    return data


def boxes(data: bytes) -> list[Box]:
    """Those of the container, at every depth; empty for a format that is none of the four."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"styp"):
        found = _atoms(data, 0, len(data))
    elif data[:4] == b"\x1aE\xdf\xa3":
        found = _elements(data, 0, len(data))
    elif data[:4] == b"RIFF":
        found = _chunks(data, 12, len(data))
    elif data[:1] == b"G" and data[TS_PACKET : TS_PACKET + 1] == b"G":
        found = (Box(at, at + 4, at + TS_PACKET) for at in range(0, len(data) - TS_PACKET, TS_PACKET))
    else:
        return []
    return [box for box, _ in zip(found, range(MOST), strict=False)]


def _atoms(data: bytes, at: int, end: int) -> Iterator[Box]:
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if size == 1 and at + 16 <= end:
            size, body = struct.unpack_from(">Q", data, at + 8)[0], at + 16
        stop = min(end, at + size) if size >= 8 else end
        yield Box(at, body, stop)
        if kind in MP4_PARENTS:
            yield from _atoms(data, body, stop)
        at = stop


def _elements(data: bytes, at: int, end: int) -> Iterator[Box]:
    while at < end:
        kind, body = _number(data, at, marked=True)
        size, body = _number(data, body, marked=False)
        if body > end or body <= at:
            return
        stop = min(end, body + size)
        yield Box(at, body, stop)
        if kind in EBML_PARENTS:
            yield from _elements(data, body, stop)
        at = stop


def _number(data: bytes, at: int, marked: bool) -> tuple[int, int]:
    """A number of EBML and where the next thing begins; ids keep the mark of their length."""
    if at >= len(data) or not data[at]:
        return 0, len(data) + 1
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return value if marked else value & ((1 << 7 * length) - 1), at + length


def _chunks(data: bytes, at: int, end: int) -> Iterator[Box]:
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        stop = min(end, at + 8 + size + size % 2)
        yield Box(at, at + 8, stop)
        if kind == b"LIST":
            yield from _chunks(data, at + 12, stop)
        at = stop


def _in_boxes(data: bytes, found: list[Box], rng: random.Random) -> bytes:
    box, other = rng.choice(found), rng.choice(found)
    match rng.randrange(7):
        case 0:
            return data[: box.start] + data[box.end :]
        case 1:
            return data[: box.end] + data[box.start : box.end] + data[box.end :]
        case 2:
            return data[: box.start] + data[other.start : other.end] + data[box.end :]
        case 3:
            return _put(data, box.start, data[other.start : other.body])
        case 4:
            # In its header: size or kind.
            return _odd_number(data, box.start, box.body, rng)
        case 5:
            return data[: box.body] + data[box.body + rng.randrange(1 + box.end - box.body) :]
        case _:
            return _odd_number(data, box.body, box.end, rng)


def _odd_number(data: bytes, start: int, end: int, rng: random.Random) -> bytes:
    width = rng.choice((1, 2, 4, 4, 4, 8))
    at = start + rng.randrange(max(1, (end - start) // width)) * width
    return _put(data, at, (rng.choice(ODD) % (1 << 8 * width)).to_bytes(width, rng.choice(("big", "little"))))


def _in_bytes(data: bytes, rng: random.Random) -> bytes:
    span = min(len(data), HEAD) if rng.random() < 0.4 else len(data)
    at = rng.randrange(span) if rng.random() < 0.7 else len(data) - 1 - rng.randrange(span)
    length = rng.choice((1, 2, 4, 16, 188, 1000, 10_000))
    piece = data[at : at + length]
    match rng.randrange(7):
        case 0:
            return _put(data, at, bytes(byte ^ (1 << rng.randrange(8)) for byte in piece[:64]))
        case 1:
            return _put(data, at, rng.randbytes(len(piece)))
        case 2:
            return _put(data, at, bytes(len(piece)))
        case 3:
            return data[:at] + data[at + length :]
        case 4:
            return data[:at] + piece + data[at:]
        case 5:
            return data[:at]
        case _:
            return _odd_number(data, at, min(len(data), at + 8), rng)


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]
