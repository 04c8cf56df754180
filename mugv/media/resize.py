"""Sizes of pictures: the even size with a given short side, cover-and-crop to an exact size, halving."""

from __future__ import annotations

import cv2
import numpy as np

LARGE_BYTES, BAND_BYTES, LINE = 2**18, 2**20, 64
"""Large pictures are halved in bands that fit a core's cache, after one byte of every cache line was read: that runs ahead of the
memory where halving waits for it (a 4K frame twice: 1.2 ms, not 1.6)."""


def fit_short_side(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Even height and width whose short side is at most `short_side`: scaled down, never up; at least 2 x 2."""
    scale = min(1.0, short_side / min(height, width))

    def even(side: int) -> int:
        return max(2, min(round(side * scale / 2) * 2, side // 2 * 2))

    return even(height), even(width)


def resize_crop(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [T, H, W, 3] to [T, height, width, 3]: scale to cover the target, then crop the centre (area down, bicubic up)."""
    if frames.shape[1:3] == (height, width):
        return frames
    frames = _without_far_ends(frames, height, width)
    rows, columns = frames.shape[1:3]
    scale = max(height / rows, width / columns)
    size = (max(width, round(columns * scale)), max(height, round(rows * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    # Rounded, as the released pipeline does: of an odd excess half is not a whole pixel.
    top, left = round((size[1] - height) / 2), round((size[0] - width) / 2)
    scaled = (cv2.resize(frame, size, interpolation=method) for frame in frames)
    return np.stack([frame[top : top + height, left : left + width] for frame in scaled])


def _without_far_ends(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Of a strip, a part around the centre, eight times as long as what will be seen of it: whole, it could be scaled past all memory."""
    rows, columns = frames.shape[1:3]
    tall, wide = min(rows, 8 * -(-columns * height // width)), min(columns, 8 * -(-rows * width // height))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    return frames[:, top : top + tall, left : left + wide]


def halved(picture: np.ndarray, steps: int = 1) -> np.ndarray:
    """Means of 2 x 2 pixels of [h, w] or [h, w, C], `steps` times; an odd last row or column is left out, a side of one pixel stays."""
    height, width = picture.shape[0] >> steps, picture.shape[1] >> steps
    if picture.nbytes < LARGE_BYTES or not height or not width:
        return _halved(picture, steps)
    made = np.empty((height, width, *picture.shape[2:]), picture.dtype)
    rows = max(1, BAND_BYTES // picture[0].nbytes >> steps)
    for top in range(0, height, rows):
        band = picture[top << steps : min(height, top + rows) << steps]
        band[:, ::LINE].max()
        _halved(band, steps, made[top : top + rows])
    return made


def _halved(picture: np.ndarray, steps: int, made: np.ndarray | None = None) -> np.ndarray:
    """Into `made` where it is given: the caller's array of the last size."""
    for step in range(1, steps + 1):
        height, width = max(1, picture.shape[0] // 2), max(1, picture.shape[1] // 2)
        into = made if step == steps else None
        picture = cv2.resize(picture[: 2 * height, : 2 * width], (width, height), into, interpolation=cv2.INTER_AREA)
    return picture
