"""What the numbers of a picture mean: transfer, primaries, matrix and range, by the names that ffmpeg gives libav's codes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import av

BT709, UNTOLD = 1, 2
LARGE_ROWS, LARGE_COLUMNS = 576, 1280
"""A picture with more rows, or so many columns, whose matrix is not told has that of BT.709, a smaller one that of BT.601: so players."""

TRANSFERS = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
}
MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}
RANGES = {1: "tv", 2: "pc"}
FIELD_ORDERS = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}
NOT_CONVERTED = {8, *range(10, 18)}
"""Matrices that libav's scaler takes for BT.601."""


class Transfer(IntEnum):
    """Of pictures that are not made for a screen of standard range."""

    LINEAR = 8
    LOG = 9
    LOG_SQRT = 10
    PQ = 16
    DCI = 17
    HLG = 18


class Gamut(IntEnum):
    """Primaries wider than those of BT.709, as far as they are converted."""

    BT2020 = 9
    DCI_P3 = 11
    DISPLAY_P3 = 12


@dataclass(frozen=True)
class Signal:
    """As the file says, in ffmpeg's names; empty where it says nothing."""

    transfer: str = ""
    primaries: str = ""
    matrix: str = ""
    color_range: str = ""
    field_order: str = ""
    """progressive | tt | bb | tb | bt (field that is stored, field that is shown first) | interlaced, when the order is not told."""

    @property
    def plain(self) -> bool:
        """Progressive, of standard range and gamut: what is shown is what is stored."""
        wide = {TRANSFERS[code] for code in Transfer} | {PRIMARIES[code] for code in Gamut}
        return self.field_order in ("", "progressive") and wide.isdisjoint((self.transfer, self.primaries))


def signal_of(frame: av.VideoFrame, field_order: int) -> Signal:
    """Of the first frame of a stream, before anything is changed; `field_order`: the decoder's."""
    order = FIELD_ORDERS.get(field_order, "")
    if frame.interlaced_frame and order in ("", "progressive"):
        order = "interlaced"
    return Signal(
        TRANSFERS.get(frame.color_trc, ""),
        PRIMARIES.get(frame.color_primaries, ""),
        MATRICES.get(frame.colorspace, ""),
        RANGES.get(frame.color_range, ""),
        order,
    )


def refusal(frame: av.VideoFrame) -> str:
    """Why its colours cannot be converted; empty when they can."""
    return f"colours by {MATRICES[frame.colorspace]} are not converted" if frame.colorspace in NOT_CONVERTED else ""


def matrix_of(frame: av.VideoFrame) -> int:
    """libav's code of the matrix, by primaries, transfer and size where it is not told."""
    if frame.colorspace in MATRICES:
        return int(frame.colorspace)
    if frame.color_primaries == Gamut.BT2020 or frame.color_trc in (Transfer.PQ, Transfer.HLG):
        return int(Gamut.BT2020)
    return BT709 if frame.height > LARGE_ROWS or frame.width >= LARGE_COLUMNS else UNTOLD


def beyond_standard(frame: av.VideoFrame) -> tuple[int, int] | None:
    """Transfer and primaries (0: those of BT.709) to convert from, None for a picture of standard range and gamut."""
    transfer = frame.color_trc if frame.color_trc in Transfer.__members__.values() else 0
    gamut = frame.color_primaries if frame.color_primaries in Gamut.__members__.values() else 0
    if frame.color_primaries == UNTOLD and transfer in (Transfer.PQ, Transfer.HLG):
        gamut = int(Gamut.BT2020)
    if frame.format.name.startswith("xyz") or not (transfer or gamut):
        return None
    return int(transfer), int(gamut)
