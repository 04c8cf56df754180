"""Pictures of clips for people: contact sheets (PNG), and grids that move (WebP, GIF or MP4).

A strip is one clip: its caption, sampled frames and, where a judge looked, a tick, a cross or a dash for each attribute.
Clips are uint8 [T, H, W, 3]; small ones are enlarged smoothly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (24, 28, 36), (112, 118, 130), (255, 255, 255)
RIGHT, WRONG, UNSURE = (22, 140, 80), (205, 50, 50), (150, 155, 165)
GAP, PAD, LINE = 4, 16, 26
BADGE_GAP = 10
PAGE_WIDTH = 1400
"""Wide clips get fewer strips a row, so that a page stays readable."""
_SHARPER = 4
"""Marks are drawn this many times larger and scaled down: Pillow's lines are not antialiased."""


@dataclass(frozen=True)
class Strip:
    """A clip with what is written over it; where there is little room, the note alone.

    `marks`: attribute -> right (True), wrong (False), the judge was not sure (None).
    """

    clip: np.ndarray
    caption: str
    note: str = ""
    marks: dict[str, bool | None] = field(default_factory=dict)


def contact_sheet(clips: Sequence[np.ndarray], captions: Sequence[str], path: str | Path, columns_frames: int = 6) -> None:
    """A PNG with one strip a clip. Raises ValueError when there are no clips or not one caption for each."""
    if len(clips) != len(captions):
        raise ValueError(f"{len(captions)} captions for {len(clips)} clips")
    draw_sheet([Strip(clip, caption) for clip, caption in zip(clips, captions, strict=True)], path, columns_frames)


def draw_sheet(strips: Sequence[Strip], path: str | Path, frames: int = 6, across: int = 2, tile: int = 104) -> None:
    """Strips in rows of `across`, `frames` evenly spaced frames each, `tile` pixels on a frame's short side."""
    if not strips:
        raise ValueError("a contact sheet needs at least one clip")
    width, height = _tile_size(strips[0].clip, tile)
    strip_width, strip_height = frames * (width + GAP) - GAP, LINE + height
    across = _fitting(across, strip_width + PAD)
    rows = -(-len(strips) // across)
    page = Image.new("RGB", (PAD + across * (strip_width + PAD), PAD + rows * (strip_height + PAD)), PAPER)
    for k, strip in enumerate(strips):
        x, y = PAD + k % across * (strip_width + PAD), PAD + k // across * (strip_height + PAD)
        _heading(page, strip, x, y, strip_width)
        for column, frame in enumerate(_sampled(strip.clip, frames)):
            page.paste(_enlarged(frame, width, height), (x + column * (width + GAP), y + LINE))
    page.save(path, optimize=True)


def draw_moving(strips: Sequence[Strip], path: str | Path, fps: float, across: int = 6, tile: int = 160) -> None:
    """All clips at once, moving, in a grid with captions; `.webp` and `.gif` repeat for ever, `.mp4` plays once."""
    if not strips:
        raise ValueError("a moving sheet needs at least one clip")
    path = Path(path)
    pages = _moving_pages(strips, across, tile)
    if path.suffix == ".mp4":
        from mugv.media.encode import write_video

        write_video(path, np.stack([np.asarray(page) for page in pages]), fps)
        return
    if path.suffix not in (".webp", ".gif"):
        raise ValueError(f"{path.name}: a moving sheet is written as .webp, .gif or .mp4")
    quality: dict[str, Any] = {"quality": 82, "method": 4} if path.suffix == ".webp" else {}
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=round(1000 / fps), loop=0, **quality)


def _moving_pages(strips: Sequence[Strip], across: int, tile: int) -> list[Image.Image]:
    width, height = _tile_size(strips[0].clip, tile)
    across = min(_fitting(across, width + PAD), len(strips))
    step_x, step_y = width + PAD, height + LINE * (2 if any(s.marks for s in strips) else 1) + PAD // 2
    rows = -(-len(strips) // across)
    size = [PAD + across * step_x, PAD + rows * step_y]
    empty = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), PAPER)
    for k, strip in enumerate(strips):
        x, y = PAD + k % across * step_x, PAD + k // across * step_y + height
        _text(empty, strip.note or strip.caption, x, y + 5, width, 12, FAINT if strip.note else INK)
        if strip.marks:
            _badges(empty, strip.marks, x + _badges_width(strip.marks, short=True), y + LINE, short=True)
    pages = []
    for t in range(max(len(s.clip) for s in strips)):
        page = empty.copy()
        for k, strip in enumerate(strips):
            frame = strip.clip[min(t, len(strip.clip) - 1)]
            page.paste(_enlarged(frame, width, height), (PAD + k % across * step_x, PAD + k // across * step_y))
        pages.append(page)
    return pages


def _fitting(across: int, step: int) -> int:
    return max(1, min(across, PAGE_WIDTH // step))


def _tile_size(clip: np.ndarray, short_side: int) -> tuple[int, int]:
    """(width, height) of a frame whose short side is `short_side`."""
    height, width = clip.shape[1:3]
    scale = short_side / min(height, width)
    return round(width * scale), round(height * scale)


def _sampled(clip: np.ndarray, frames: int) -> np.ndarray:
    return clip[np.linspace(0, len(clip) - 1, frames).round().astype(int)]


def _enlarged(frame: np.ndarray, width: int, height: int) -> Image.Image:
    way = cv2.INTER_CUBIC if width > frame.shape[1] else cv2.INTER_AREA
    return Image.fromarray(cv2.resize(frame, (width, height), interpolation=way))


def _heading(page: Image.Image, strip: Strip, x: int, y: int, width: int) -> None:
    """Caption and note at the left, the judge's marks at the right."""
    room = width
    if strip.marks:
        _badges(page, strip.marks, x + width, y + 2)
        room -= _badges_width(strip.marks) + PAD
    used = _text(page, strip.caption, x, y + 3, room, 15, INK)
    if strip.note and room - used > 40:
        _text(page, strip.note, x + used + 10, y + 5, room - used - 10, 13, FAINT)


def _text(page: Image.Image, text: str, x: int, y: int, room: int, size: int, colour: tuple[int, int, int]) -> int:
    """Write one line, cut with an ellipsis where it does not fit; returns its width in pixels."""
    font = ImageFont.load_default(size)
    line = " ".join(text.split())
    if font.getlength(line) > room:
        while line and font.getlength(line + "...") > room:
            line = line[:-1]
        line = line.rstrip() + "..."
    ImageDraw.Draw(page).text((x, y), line, fill=colour, font=font)
    return round(font.getlength(line))


def _badge_label(name: str, short: bool) -> str:
    return name[0].upper() if short else name


def _badges_width(marks: dict[str, bool | None], short: bool = False) -> int:
    font = ImageFont.load_default(13)
    return sum(18 + round(font.getlength(_badge_label(name, short))) + BADGE_GAP for name in marks) - BADGE_GAP


def _badges(page: Image.Image, marks: dict[str, bool | None], right: int, y: int, short: bool = False) -> None:
    x = right - _badges_width(marks, short)
    for name, verdict in marks.items():
        colour = UNSURE if verdict is None else RIGHT if verdict else WRONG
        page.paste(_mark(verdict, colour), (x, y + 3))
        used = _text(page, _badge_label(name, short), x + 18, y + 2, 200, 13, colour)
        x += 18 + used + BADGE_GAP


def _mark(verdict: bool | None, colour: tuple[int, int, int]) -> Image.Image:
    """A tick, a cross or a dash in a filled disc, 14 pixels wide."""
    side = 14 * _SHARPER
    mark = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(mark)
    draw.ellipse((0, 0, side - 1, side - 1), fill=colour)
    lines: dict[bool | None, list[list[tuple[float, float]]]] = {
        True: [[(0.27, 0.53), (0.43, 0.69), (0.74, 0.34)]],
        False: [[(0.32, 0.32), (0.68, 0.68)], [(0.68, 0.32), (0.32, 0.68)]],
        None: [[(0.28, 0.5), (0.72, 0.5)]],
    }
    for line in lines[verdict]:
        draw.line([(x * side, y * side) for x, y in line], fill=PAPER, width=round(0.12 * side), joint="curve")
    return mark.resize((14, 14), Image.Resampling.LANCZOS)
