"""A picture file as the pixels that people see: turned, on white where it is transparent, with all its grey levels."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mugv.errors import UserError

WIDE = ("I", "F")
"""PIL's modes of one channel with more than 8 bits (I;16 begins with I)."""


def read_picture(source: Path | IO[bytes], name: str) -> tuple[np.ndarray, list[str]]:
    """uint8 [H, W, 3] of PNG, JPEG or whatever else PIL reads, and what was done with it that a user may not expect.

    The orientation that a camera noted is applied. 16-bit grey is divided by 257, floats are read as 0 to 1. Raises UserError, which
    begins with `name`, for what is missing, no picture, cut short, larger than PIL takes (178 million pixels), or not in that range.
    """
    try:
        with warnings.catch_warnings():
            # PIL warns from half of the size on that it refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as opened:
                opened.load()
                return _pixels(_upright(opened), name)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{name}: has more than {limit / 1e6:.0f} million pixels; give a smaller picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, MemoryError):
        raise UserError(f"{name}: not a picture that can be read; expected PNG or JPEG") from None


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except (ValueError, TypeError, KeyError, SyntaxError, struct.error):  # the note itself is broken: as it lies in the file
        return picture


def _pixels(picture: Image.Image, name: str) -> tuple[np.ndarray, list[str]]:
    if picture.mode.startswith(WIDE):
        return np.repeat(_grey(np.asarray(picture), picture.mode, name)[..., None], 3, axis=2), []
    try:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except ValueError:
        raise UserError(f"{name}: pixels of kind {picture.mode} cannot be shown; expected PNG or JPEG") from None
    if picture.mode == "RGB" or picture.getchannel("A").getextrema()[0] == 255:
        return np.asarray(picture.convert("RGB")), []
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB")), [f"{name}: transparent; put on white"]


def _grey(values: np.ndarray, mode: str, name: str) -> np.ndarray:
    """uint8 [H, W] of whole numbers up to 65535, or of floats from 0 to 1."""
    top = 1.0 if mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= top:
        raise UserError(f"{name}: grey values from {low:g} to {high:g}; expected 0 to {top:g}")
    return np.round(values * (255 / top)).astype(np.uint8)
