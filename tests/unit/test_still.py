"""Pictures as people have them: turned by a camera's note, with 16 bits, with holes, far too large."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mugv.errors import UserError
from mugv.media.still import read_picture


def reread(picture, form, **more):
    file = io.BytesIO()
    picture.save(file, form, **more)
    file.seek(0)
    return read_picture(file, "--image p")


def oriented(orientation):
    """Left half red, right half blue as it lies in the file: 20 rows, 40 columns."""
    picture = Image.new("RGB", (40, 20), (220, 0, 0))
    picture.paste((0, 0, 220), (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return reread(picture, "JPEG", exif=exif, quality=95)[0]


@pytest.mark.parametrize(("orientation", "where"), [(6, "top"), (8, "bottom"), (3, "right"), (1, "left"), (0, "left"), (99, "left")])
def test_a_picture_is_read_as_the_camera_held_it(orientation, where):
    found = oriented(orientation)
    assert found.shape == ((40, 20, 3) if where in ("top", "bottom") else (20, 40, 3))
    rows, columns = found.shape[0] // 2, found.shape[1] // 2
    red = {"top": found[:rows], "bottom": found[rows:], "left": found[:, :columns], "right": found[:, columns:]}[where]
    assert red[..., 0].mean() > 180 > 60 > red[..., 2].mean()


def test_a_broken_note_of_the_camera_leaves_the_picture_as_it_lies():
    found, _ = reread(Image.new("RGB", (40, 20)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x09")
    assert found.shape == (20, 40, 3)


def test_16_bit_grey_keeps_all_its_levels():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found, _ = reread(Image.fromarray(ramp), "PNG")
    assert found.shape == (256, 256, 3)
    assert np.array_equal(found[..., 1], np.round(ramp / 257).astype(np.uint8))
    assert len(np.unique(found)) == 256


def test_32_bit_whole_numbers_are_read_as_16_bits_and_larger_ones_refused():
    ramp = np.arange(65536, dtype=np.int32).reshape(256, 256)
    assert len(np.unique(reread(Image.fromarray(ramp), "TIFF")[0])) == 256
    for wrong in (ramp * 9, ramp - 1):
        with pytest.raises(UserError, match=r"--image p: grey values from -?\d.* to .*; expected 0 to 65535"):
            reread(Image.fromarray(wrong), "TIFF")


def test_floats_are_read_from_0_to_1_and_others_refused():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(reread(Image.fromarray(ramp), "TIFF")[0][..., 0], np.arange(256).reshape(16, 16))
    for wrong in (ramp * 255, ramp - 0.1, np.where(ramp > 0.5, np.nan, ramp).astype(np.float32)):
        with pytest.raises(UserError, match=r"--image p: grey values from .* to .*; expected 0 to 1$"):
            reread(Image.fromarray(wrong), "TIFF")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_shows_through_is_white_and_said(mode):
    """The hidden colour under transparent pixels was shown."""
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 2, 4))
    found, notes = reread(picture.convert(mode), "PNG")
    assert found[0, :, 0].tolist() == [0, 0, 255, 255]
    assert found[0, 3].tolist() == [255, 255, 255]
    assert notes == ["--image p: transparent; put on white"]


def test_a_whole_picture_with_an_alpha_channel_is_as_it_is():
    found, notes = reread(Image.new("RGBA", (4, 4), (10, 20, 30, 255)), "PNG")
    assert (found[0, 0].tolist(), notes) == ([10, 20, 30], [])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB"])
def test_every_usual_kind_of_pixels_is_read(mode):
    found, _ = reread(Image.new("RGB", (4, 4), (200, 30, 30)).convert(mode), "TIFF")
    assert (found.shape, found.dtype) == ((4, 4, 3), np.uint8)


def huge_png(side):
    """A PNG whose header promises side x side pixels; it holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [30000, 50000])
def test_a_picture_that_would_fill_the_memory_is_refused_in_one_line(side):
    with pytest.raises(UserError, match=r"^--image p: has more than 179 million pixels; give a smaller picture$"):
        read_picture(huge_png(side), "--image p")


@pytest.mark.filterwarnings("error")
def test_a_large_picture_that_is_cut_is_one_line_without_warnings():
    with pytest.raises(UserError, match=r"^--image p: not a picture that can be read"):
        read_picture(huge_png(11000), "--image p")
