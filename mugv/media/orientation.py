"""How a stored picture becomes upright: mirrored left to right or not, then turned by quarters, as its display matrix says.

An orientation is a number from 0 to 7: quarters counterclockwise, and MIRRORED. Angles between are rounded.
"""

from __future__ import annotations

import math
import struct

import av
import numpy as np
from av.sidedata.sidedata import Type

Box = tuple[int, int, int, int]
MIRRORED = 4


def orientation(frame: av.VideoFrame) -> int:
    """Of a decoded frame; 0 when nothing is said, or what is said is no orientation."""
    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return 0
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(found))
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b
    clockwise = math.atan2(b - c, a + d)
    return round(-clockwise / (math.pi / 2)) % 4 + MIRRORED * mirrored


def upright(array: np.ndarray, how: int) -> np.ndarray:
    """[h, w, ...] as stored to [H, W, ...] as shown; contiguous."""
    if not how:
        return array
    if how & MIRRORED:
        array = array[:, ::-1]
    return np.ascontiguousarray(np.rot90(array, how % MIRRORED))


def stored_box(box: Box, how: int, stored: tuple[int, int]) -> Box:
    """A box (left, top, width, height) of the upright picture, in the stored one of (height, width)."""
    left, top, width, height = box
    rows, columns = stored
    turns = how % MIRRORED
    if turns == 1:
        left, top, width, height = columns - top - height, left, height, width
    elif turns == 2:
        left, top = columns - left - width, rows - top - height
    elif turns == 3:
        left, top, width, height = top, rows - left - width, height, width
    if how & MIRRORED:
        left = columns - left - width
    return left, top, width, height
