"""What is planted in the footage with known truth: blur, borders, overlaid text, title cards, second encodings, damaged streams."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.curation_scenes import Camera, Look, Size, Take, coloured, noise_field, palette

Box = tuple[int, int, int, int]
"""left, top, width, height, pixels."""
WORDS = [
    "the",
    "light",
    "over",
    "old",
    "harbour",
    "was",
    "never",
    "quite",
    "so",
    "bright",
    "as",
    "that",
    "morning",
    "when",
    "we",
    "left",
    "for",
    "river",
    "and",
    "mountain",
    "road",
    "again",
]
STYLES = ("subtitle", "subtitle", "watermark", "banner", "handle", "headline")


def encode(path: Path | io.BytesIO, frames: Iterable[np.ndarray], fps: float, crf: int, gop: int = 250) -> None:
    """H.264 as most files have it: B-frames, scene-cut key frames, a long GOP."""
    with av.open(path if isinstance(path, io.BytesIO) else str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.options = {"crf": str(crf), "preset": "veryfast", "g": str(gop), "bf": "3"}
        stream.pix_fmt, stream.codec_context.thread_count, first = "yuv420p", 1, True
        for picture in frames:
            if first:
                stream.height, stream.width, first = picture.shape[0], picture.shape[1], False
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def decode(path: Path | io.BytesIO) -> list[np.ndarray]:
    """Luma [H, W] of every frame that the decoder gives, whatever the errors."""
    frames = []
    with av.open(path if isinstance(path, io.BytesIO) else str(path)) as container:
        container.streams.video[0].thread_count = 1
        for packet in container.demux(video=0):
            with contextlib.suppress(av.error.InvalidDataError):
                frames += [frame.to_ndarray(format="gray") for frame in packet.decode()]
    return frames


def fast_camera(look: Look, rng: np.random.Generator) -> Look:
    """Footage run far too fast: 1.2 to 4 heights a second, some 54 to 180 pixels in 0.125 s at 360 rows."""
    speed, turn = float(rng.uniform(1.2, 4.0)), float(rng.uniform(-0.4, 0.4)) + float(rng.choice([0, np.pi]))
    return replace(look, camera=Camera((speed * float(np.cos(turn)), speed * float(np.sin(turn))), sway=0.01), object_speed=2.0, objects=4)


def blurred(picture: np.ndarray, sigma: float, smear: bool) -> np.ndarray:
    """Out of focus, or smeared along a line of seven sigmas."""
    if not smear:
        return cv2.GaussianBlur(picture, (0, 0), sigma)
    kernel = np.zeros((int(7 * sigma) | 1,) * 2, np.float32)
    cv2.line(kernel, (0, kernel.shape[0] // 4), (kernel.shape[1] - 1, kernel.shape[0] * 3 // 4), 1.0, 2)
    return cv2.filter2D(cv2.GaussianBlur(picture, (0, 0), sigma / 3), -1, kernel / kernel.sum())


def sampled_box(size: Size, rng: np.random.Generator) -> Box:
    """The picture inside bars: letterbox, pillarbox, both, or uneven ones; 8 to 16 % of the side each."""
    rows, columns, style = *size, int(rng.integers(4))
    y, x = (int(rng.uniform(0.08, 0.16) * rows) // 2 * 2, int(rng.uniform(0.08, 0.16) * columns) // 2 * 2)
    if style == 0:
        return 0, y, columns, rows - 2 * y
    if style == 1:
        return x, 0, columns - 2 * x, rows
    if style == 2:
        return x, y, columns - 2 * x, rows - 2 * y
    return 0, y, columns, rows - y - y // 2


def bordered(picture: np.ndarray, box: Box) -> np.ndarray:
    """The picture scaled into the box, black around it."""
    left, top, width, height = box
    rows, columns = picture.shape[:2]
    scale = max(width / columns, height / rows)
    inside = cv2.resize(picture, (round(columns * scale + 0.5), round(rows * scale + 0.5)), interpolation=cv2.INTER_AREA)
    framed = np.zeros_like(picture)
    framed[top : top + height, left : left + width] = inside[:height, :width]
    return framed


class Overlay:
    """Text laid over a shot at one place of the screen, from its first frame or from its first third on."""

    def __init__(self, size: Size, frames: int, rng: np.random.Generator) -> None:
        self.style = STYLES[int(rng.integers(len(STYLES)))]
        self.first = 0 if rng.random() < 0.7 else int(frames * rng.uniform(0.15, 0.35))
        layer = Image.new("RGBA", size[::-1], (0, 0, 0, 0))
        getattr(self, f"_{self.style}")(ImageDraw.Draw(layer), size, rng)
        rgba = np.asarray(layer)
        self.colours, self.alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)

    def __call__(self, picture: np.ndarray, k: int) -> np.ndarray:
        if self.first > 0 and k < self.first:
            return picture
        return ((picture * (255 - self.alpha) + self.colours * self.alpha) // 255).astype(np.uint8)

    def _subtitle(self, draw: ImageDraw.ImageDraw, size: Size, rng: np.random.Generator) -> None:
        font, short = _font(0.065 * min(size)), size[1] < size[0]
        for line in range(int(rng.integers(1, 3))):
            place = (size[1] / 2, size[0] * (0.93 - 0.09 * line * min(size) / size[0]))
            draw.text(place, _words(rng, 3 if short else 6), "white", font, "mm", stroke_width=max(1, size[0] // 240), stroke_fill="black")

    def _watermark(self, draw: ImageDraw.ImageDraw, size: Size, rng: np.random.Generator) -> None:
        right, low = rng.random() < 0.7, rng.random() < 0.5
        place = (size[1] * (0.96 if right else 0.04), size[0] * (0.95 if low else 0.05))
        anchor = ("r" if right else "l") + ("s" if low else "t")
        draw.text(place, _words(rng, 2).title(), (255, 255, 255, int(rng.integers(150, 230))), _font(0.07 * min(size)), anchor)

    def _banner(self, draw: ImageDraw.ImageDraw, size: Size, rng: np.random.Generator) -> None:
        top, high = 0.78 * size[0], 0.14 * min(size)
        draw.rectangle((0.05 * size[1], top, 0.95 * size[1], top + high), (*rng.integers(0, 90, 3).tolist(), 230))
        draw.text(
            (0.5 * size[1], top + high / 2), _words(rng, 3 if size[1] < size[0] else 5).upper(), "white", _font(0.06 * min(size)), "mm"
        )

    def _handle(self, draw: ImageDraw.ImageDraw, size: Size, rng: np.random.Generator) -> None:
        place = (size[1] * rng.uniform(0.3, 0.7), size[0] * rng.uniform(0.2, 0.8))
        name = "@" + _words(rng, 2).replace(" ", "_") + str(int(rng.integers(99)))
        draw.text(place, name, "white", _font(0.075 * min(size)), "mm", stroke_width=1, stroke_fill="black")

    def _headline(self, draw: ImageDraw.ImageDraw, size: Size, rng: np.random.Generator) -> None:
        colour = tuple(int(c) for c in rng.integers(160, 256, 3))
        for line in range(2):
            place = (size[1] / 2, size[0] * (0.14 + 0.12 * line * min(size) / size[0]))
            draw.text(place, _words(rng, 2).upper(), colour, _font(0.11 * min(size)), "mm", stroke_width=3, stroke_fill="black")


def _font(pixels: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(10, round(pixels)))


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(WORDS[int(k)] for k in rng.choice(len(WORDS), count, replace=False))


def title(size: Size, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """A title card: large words on black, on one colour or on a soft texture."""
    style = int(rng.integers(3))
    if style == 2:
        ground = cv2.GaussianBlur(coloured(noise_field(rng, size, 2.0), palette(rng), 25, 60), (0, 0), 6)
    else:
        ground = np.full((*size, 3), 0 if style == 0 else rng.integers(20, 120, 3), np.uint8)
    card = Image.fromarray(ground)
    draw = ImageDraw.Draw(card)
    for line in range(int(rng.integers(1, 4))):
        draw.text((size[1] / 2, size[0] * (0.38 + 0.13 * line)), _words(rng, 2), "white", _font(0.1 * min(size)), "mm")
    picture = np.asarray(card)
    return lambda k: picture


def recoded(take: Take, shown: Any, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """The duplicate of a take: encoded again at a low rate, scaled to another file's size, perhaps a little brighter or darker.

    `shown` has the file's fps and size, the shot's frames and its shift.
    """
    margin, buffer, gain = 26, io.BytesIO(), float(rng.uniform(0.94, 1.06))
    first, past = shown.shot.shift - margin, shown.shot.shift + shown.frames + 42
    encode(buffer, (take.at(k / shown.fps) for k in range(first, past)), shown.fps, int(rng.integers(27, 32)))
    buffer.seek(0)
    with av.open(buffer) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    def at(k: int) -> np.ndarray:
        picture = frames[min(max(k + margin, 0), len(frames) - 1)]
        return cv2.convertScaleAbs(cv2.resize(picture, shown.size[::-1], interpolation=cv2.INTER_AREA), alpha=gain)

    return at


def corrupt(path: Path, truth: dict[str, Any], places: int, rng: np.random.Generator) -> None:
    """Damage the stream at some places as a bad disk does: a few wrong bits, or a run of zero bytes, inside one coded frame;
    a large frame is hit more often.

    The frames that differ afterwards are found by decoding both; visible is a mean difference of 2 levels, or 12 in a sixteenth of
    the picture. A damage that makes the decoder lose a frame is drawn again, so that frame numbers keep their meaning.
    """
    whole, clean = path.read_bytes(), decode(path)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos]
    data = bytearray(whole)
    for part in np.array_split(np.arange(len(packets)), places):
        for _ in range(20):
            sizes = np.array([packets[k][1] for k in part], float)
            tried = _damaged(data, packets[int(rng.choice(part, p=sizes / sizes.sum()))], rng)
            seen = decode(io.BytesIO(bytes(tried)))
            if len(seen) == len(clean):
                data = tried
                break
    path.write_bytes(data)
    differ = [_difference(a, b) for a, b in zip(clean, decode(path), strict=True)]
    truth["touched"] = _spans([d > 0.0 for d in differ])
    truth["corrupt"] = _spans([d >= 1.0 for d in differ])
    for shot in truth["shots"]:
        if any(a < shot["end"] and b > shot["start"] for a, b in truth["corrupt"]):
            shot["kind"] = "corrupt"


def _damaged(data: bytearray, packet: tuple[int, int], rng: np.random.Generator) -> bytearray:
    position, size = packet
    again = bytearray(data)
    if rng.random() < 0.5:
        for _ in range(6):
            again[position + int(rng.uniform(0.3, 0.9) * size)] ^= 1 << int(rng.integers(8))
    else:
        start = position + int(rng.uniform(0.3, 0.6) * size)
        length = min(512, position + size - start)
        again[start : start + length] = bytes(length)
    return again


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """0 when equal, 1 where a person begins to see it."""
    gap = cv2.absdiff(a, b)
    return max(float(gap.mean()) / 2, float(cv2.resize(gap, (4, 4), interpolation=cv2.INTER_AREA).max()) / 12)


def _spans(flags: list[bool]) -> list[list[int]]:
    edges = np.flatnonzero(np.diff([False, *flags, False]))
    return [[int(a), int(b)] for a, b in zip(edges[::2], edges[1::2], strict=True)]
