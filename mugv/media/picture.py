"""One decoded picture and every smaller version of it that is asked for, made from the decoder's own planes.

Shrinking goes by halves (2 x 2 means, which OpenCV does about forty times faster than other ratios) until less than twice the
wanted size is left, then by linear interpolation; never up. So a small luma picture of a 4K frame costs one pass over its
brightness plane, and no colour conversion of the whole. Formats without planes of their own (RGB, alpha, palettes, interleaved
chroma) and pictures of high dynamic range or wide gamut are converted to RGB once and shrunk from there. Boxes are (left, top,
width, height) in upright source pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from mugv.media.orientation import Box, orientation, stored_box, upright
from mugv.media.resize import fit_short_side, halved
from mugv.media.signal import beyond_standard, matrix_of
from mugv.media.tone import to_standard

SMALL_PICTURE = 640 * 480
"""Pixels up to which a picture is converted whole, with full chroma resolution, before it is scaled."""
_PLANAR = re.compile(r"yuvj?4(20|22|44)p(10le|12le)?")
LEFT_CHROMA = {"h264": re.compile("4(20|22)"), "hevc": re.compile("420"), "mpeg2video": re.compile("420"), "mpeg4": re.compile("420")}
"""Pixel formats whose chroma samples the codec has at the left edge of their pixels, as a rule; elsewhere between them."""
_WEIGHTS = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Colour space of libav -> weights of red and blue in the luma; else those of BT.601."""


class Picture(Protocol):
    """Pixels upright; `size` is (height, width) of the source as a viewer shows it, whatever is held here."""

    size: tuple[int, int]

    def luma(self, height: int, width: int, box: Box | None) -> np.ndarray: ...

    def bgr(self, height: int, width: int, box: Box | None) -> np.ndarray: ...

    def rgb(self, height: int, width: int, box: Box | None) -> np.ndarray: ...


class Pixels:
    """An RGB array uint8 [h, w, 3], upright."""

    def __init__(self, rgb: np.ndarray, size: tuple[int, int] | None = None) -> None:
        self.array = rgb
        self.size = size or (rgb.shape[0], rgb.shape[1])
        self.levels = [rgb]

    def rgb(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return _fitted(self.levels, height, width, box, self.size)

    def bgr(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return cv2.cvtColor(self.rgb(height, width, box), cv2.COLOR_RGB2BGR)

    def luma(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return cv2.cvtColor(self.rgb(height, width, box), cv2.COLOR_RGB2GRAY)

    def held(self, short_side: int) -> Pixels:
        """This picture without what is above twice the need."""
        steps = _halvings(min(self.array.shape[:2]), short_side)
        return Pixels(_level(self.levels, steps), self.size) if steps else self


class Planes:
    """Planar YUV, 8 to 12 bit, as stored: not rotated, pixels not square. Levels of halves are made once each."""

    def __init__(self, planes: list[np.ndarray], shape: Shape) -> None:
        self.levels = [[plane] for plane in planes]
        self.shape = shape
        self.size = shape.upright

    def luma(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return upright(self.shape.full(self._scaled(0, height, width, box)), self.shape.how)

    def bgr(self, height: int, width: int, box: Box | None) -> np.ndarray:
        yuv = cv2.merge([self._scaled(k, height, width, box) for k in range(3)])
        return upright(cv2.transform(yuv, self.shape.to_bgr), self.shape.how)

    def rgb(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return cv2.cvtColor(self.bgr(height, width, box), cv2.COLOR_BGR2RGB)

    def held(self, short_side: int) -> Planes:
        """This picture without what is above twice the need."""
        steps = _halvings(min(self.size), short_side)
        return Planes([halved(levels[0], steps) for levels in self.levels], self.shape)

    def _scaled(self, plane: int, height: int, width: int, box: Box | None) -> np.ndarray:
        shape = self.shape
        if shape.how % 2:
            height, width = width, height
        box = stored_box(box, shape.how, shape.stored) if box and shape.how else box
        small = _fitted(self.levels[plane], height, width, box, shape.stored)
        return small if small.dtype == np.uint8 else cv2.convertScaleAbs(small, alpha=shape.unit)


class Shape:
    """How stored planes become an upright picture in full-range colours: size, orientation, bit depth, colour matrix."""

    def __init__(self, stored: tuple[int, int], how: int, bits: int, full_range: bool, space: int) -> None:
        self.made_of = (stored, how, bits, full_range, space)
        self.stored, self.how, self.full_range = stored, how, full_range
        self.upright = stored if how % 2 == 0 else (stored[1], stored[0])
        self.unit = 2.0 ** (8 - bits)
        red, blue = _WEIGHTS.get(space, (0.299, 0.114))
        green = 1 - red - blue
        up, side, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
        u, v = np.array([2 * (1 - blue), -2 * (1 - blue) * blue / green, 0]), np.array([0, -2 * (1 - red) * red / green, 2 * (1 - red)])
        matrix = np.stack([np.full(3, up), side * u, side * v], axis=1)
        self.to_bgr = np.column_stack([matrix, -matrix @ np.array([black, 128.0, 128.0])]).astype(np.float32)

    def full(self, luma: np.ndarray) -> np.ndarray:
        return luma if self.full_range else cv2.convertScaleAbs(cv2.subtract(luma, 16.0), alpha=255 / 219)


@lru_cache(maxsize=8)
def _planar_bits(name: str) -> int:
    """Bits of a value in a pixel format whose planes are read as they are; 0 for others."""
    found = _PLANAR.fullmatch(name)
    return 0 if not found else int(found[2][:2]) if found[2] else 8


@lru_cache(maxsize=8)
def _shape(stored: tuple[int, int], how: int, bits: int, full_range: bool, space: int) -> Shape:
    return Shape(stored, how, bits, full_range, space)


class Decoded:
    """A picture as it came from the decoder; nothing is computed before it is asked for."""

    def __init__(self, frame: av.VideoFrame, converter: Converter) -> None:
        self.frame, self.converter = frame, converter
        self.how = converter.orientation(frame)
        height, width = converter.stored_size(frame)
        self.size = (height, width) if self.how % 2 == 0 else (width, height)
        frame.colorspace = matrix_of(frame)
        self._small: Planes | Pixels | None = None

    def luma(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return self.planes().luma(height, width, box)

    def bgr(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return self.planes().bgr(height, width, box)

    def rgb(self, height: int, width: int, box: Box | None) -> np.ndarray:
        """By swscale, with the colour matrix and range of the source; a box is cut from the whole picture."""
        if box is None:
            return self.converter(self.frame, *(height, width)[:: -1 if self.how % 2 else 1])
        return Pixels(self.converter(self.frame, *self.converter.stored_size(self.frame))).rgb(height, width, box)

    def planes(self, short_side: int | None = None) -> Planes | Pixels:
        if self._small is None:
            self._small = self._planar() or self._converted(short_side)
        return self._small

    def _planar(self) -> Planes | None:
        frame, name, planes = self.frame, self.frame.format.name, self.frame.planes
        bits = _planar_bits(name)
        if not bits or any(plane.line_size <= 0 for plane in planes) or beyond_standard(frame):
            return None
        full = frame.color_range == 2 or "j" in name
        shape = _shape(self.converter.stored_size(frame), self.how, bits, full, int(frame.colorspace))
        kind = np.dtype(np.uint8 if bits == 8 else "<u2")
        return Planes([_view(plane, kind) for plane in planes], shape)

    def _converted(self, short_side: int | None) -> Pixels:
        height, width = self.converter.stored_size(self.frame)
        if short_side is not None:
            height, width = fit_short_side(height, width, short_side)
        return Pixels(self.converter(self.frame, height, width), self.size)


class Copied:
    """Planes of a decoded picture that were copied whole: exact RGB is made from them as from the decoder's own."""

    def __init__(self, planes: list[np.ndarray], layout: Layout, converter: Converter) -> None:
        assert layout.colours is not None
        self.planes, self.layout, self.converter = Planes(planes, _shape(*layout.colours)), layout, converter
        self.size = self.planes.size

    def luma(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return self.planes.luma(height, width, box)

    def bgr(self, height: int, width: int, box: Box | None) -> np.ndarray:
        return self.planes.bgr(height, width, box)

    def rgb(self, height: int, width: int, box: Box | None) -> np.ndarray:
        assert self.layout.frame is not None
        name, rows, columns, space, colour_range = self.layout.frame
        frame = av.VideoFrame(columns, rows, name)
        frame.colorspace, frame.color_range = space, colour_range
        for plane, (copy, *_) in zip(frame.planes, self.planes.levels, strict=True):
            _view(plane, copy.dtype)[:] = copy
        return Decoded(self.converter.placed(frame), self.converter).rgb(height, width, box)


@dataclass(frozen=True)
class Layout:
    """What a picture's bytes mean."""

    parts: tuple[tuple[int, ...], ...]
    """Shape of each array, one after the other."""
    kind: str
    """Of their values, as NumPy writes it."""
    size: tuple[int, int]
    """Of the source, upright."""
    colours: Any = None
    """Of planes, what `_shape` takes; None for RGB."""
    frame: tuple[str, int, int, int, int] | None = None
    """Of whole planes: pixel format, rows, columns, colour space and range."""
    ratio: Fraction | None = None
    """Width of a pixel over its height; None for square ones."""
    codec: str = ""


class Want(NamedTuple):
    """A use of a picture at this short side, for sources whose own is at most `largest` (None: any)."""

    short_side: int
    largest: int | None = None


def packed(picture: Decoded, wants: Iterable[Want]) -> tuple[list[np.ndarray], Layout]:
    """The arrays that hold a picture for these uses, halved when that is enough, and their layout."""
    own = min(picture.size)
    short_side = max((want.short_side for want in wants if want.largest is None or own <= want.largest), default=1)
    frame, whole = picture.frame, not _halvings(own, short_side)
    made = picture.planes() if whole else picture.planes(short_side).held(short_side)
    if isinstance(made, Pixels):
        return [made.array], Layout((made.array.shape,), "|u1", made.size)
    planes = [levels[0] for levels in made.levels]
    exact = (frame.format.name, frame.height, frame.width, int(frame.colorspace), int(frame.color_range)) if whole else None
    shapes = tuple(plane.shape for plane in planes)
    return planes, _layout(
        shapes, planes[0].dtype.str, made.size, made.shape.made_of, exact, picture.converter.ratio, picture.converter.codec
    )


_layout = lru_cache(maxsize=8)(Layout)
"""One object for pictures alike: it is pickled once a message."""


def unpacked(data: np.ndarray, layout: Layout, converters: dict[Layout, Converter]) -> Picture:
    """The picture in bytes [n] that `packed` gave; `converters` keeps what later pictures of the same layout use again."""
    arrays, at = [], 0
    for shape in layout.parts:
        size = math.prod(shape) * np.dtype(layout.kind).itemsize
        arrays.append(data[at : at + size].view(layout.kind).reshape(shape))
        at += size
    if layout.colours is None:
        return Pixels(arrays[0], layout.size)
    if layout.frame is None:
        return Planes(arrays, _shape(*layout.colours))
    if layout not in converters:
        converters[layout] = Converter(layout.ratio, layout.codec, layout.colours[1])
    return Copied(arrays, layout, converters[layout])


class Converter:
    """Decoded pictures of one stream to upright RGB by swscale; scalers are kept from picture to picture."""

    def __init__(self, ratio: Fraction | None, codec: str, how: int | None = None) -> None:
        """`ratio`: width of a pixel over its height, None for square ones. `how`: the orientation; None: as each frame tells."""
        self.codec, self.how = codec, how
        self.known: dict[int, int] = {}
        self.placer: av.filter.Graph | None = None
        self.ratio = ratio if ratio and ratio != 1 else None
        self.scalers: dict[tuple[int, int], VideoReformatter] = {}

    def orientation(self, frame: av.VideoFrame) -> int:
        """See mugv.media.orientation. Looked up once for each angle: a frame whose side data was read is freed late."""
        if self.how is not None:
            return self.how
        angle = frame.rotation
        if angle not in self.known:
            self.known[angle] = orientation(frame)
        return self.known[angle]

    def stored_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width before rotation, with pixels made square."""
        return frame.height, frame.width if self.ratio is None else max(1, round(frame.width * self.ratio))

    def placed(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A frame that was put together here, with its chroma samples where the codec has them; PyAV sets that by a filter only."""
        left = LEFT_CHROMA.get(self.codec)
        if left is None or not left.search(frame.format.name):
            return frame
        if self.placer is None:
            self.placer = av.filter.Graph()
            source = self.placer.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
            self.placer.link_nodes(source, self.placer.add("setparams", "chroma_location=left"), self.placer.add("buffersink")).configure()
        frame.pts = 0
        self.placer.push(frame)
        placed = self.placer.pull()
        assert isinstance(placed, av.VideoFrame)
        return placed

    def __call__(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        """uint8 RGB of this size before rotation, then turned upright; what is transparent becomes black."""
        alpha, beyond = any(part.is_alpha for part in frame.format.components), beyond_standard(frame)
        form = ("rgba64le" if alpha else "rgb48le") if beyond else "rgba" if alpha else "rgb24"
        flags = Interpolation.ACCURATE_RND | (Interpolation.AREA if width < frame.width else Interpolation.BICUBIC)
        if frame.width * frame.height <= SMALL_PICTURE:
            flags |= Interpolation.FULL_CHR_H_INT
        frame.pts = None
        scaler = self.scalers.setdefault((height, width), VideoReformatter())
        made = scaler.reformat(frame, width, height, form, interpolation=flags, threads=1).to_ndarray()
        rgb = to_standard(np.ascontiguousarray(made[..., :3]), *beyond) if beyond else made[..., :3]
        if alpha:
            rgb = _over_black(rgb, made[..., 3:] // (257 if beyond else 1))
        return upright(rgb, self.orientation(frame))


def _view(plane: av.video.plane.VideoPlane, kind: np.dtype[np.generic]) -> np.ndarray:
    rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
    return rows[:, : plane.width]


def _halvings(have: int, need: int) -> int:
    """Halves after which at least `need` is left."""
    steps = 0
    while have >= 2 * need:
        have, steps = have // 2, steps + 1
    return steps


def _level(levels: list[np.ndarray], steps: int) -> np.ndarray:
    """levels[0] halved `steps` times; levels in between are kept in the list."""
    while len(levels) <= steps:
        levels.append(halved(levels[-1]))
    return levels[steps]


def _fitted(levels: list[np.ndarray], height: int, width: int, box: Box | None, size: tuple[int, int]) -> np.ndarray:
    """levels[0], or what `box` (in units of `size`) cuts from it, at height x width."""
    rows, columns = levels[0].shape[:2]
    if box is not None:
        rows, columns = rows * box[3] // size[0], columns * box[2] // size[1]
    steps = min(_halvings(max(1, rows), height), _halvings(max(1, columns), width))
    picture = _level(levels, steps)
    if box is not None:
        picture = _cut(picture, box, size)
    if picture.shape[:2] == (height, width):
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def _cut(picture: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The pixels that lie wholly inside the box; at least one."""
    left, top, width, height = box
    rows, columns = picture.shape[0] / size[0], picture.shape[1] / size[1]
    y, x = int(np.ceil(top * rows - 1e-6)), int(np.ceil(left * columns - 1e-6))
    bottom, right = int((top + height) * rows + 1e-6), int((left + width) * columns + 1e-6)
    return picture[y : max(y + 1, bottom), x : max(x + 1, right)]


def _over_black(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[H, W, 3] and [H, W, 1]: what is transparent becomes black."""
    return ((rgb.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
