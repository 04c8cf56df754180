"""The vocabulary of the sample footage: a coloured shape that moves. Pure numpy; no files.

Six colours x three shapes x four directions = 72 combinations. Silhouettes differ in aspect (1:1, 3:1, 1:3), so that a
shape survives an autoencoder of 512x compression. Units: positions and sizes are fractions of the frame's side.
Legend: T frames, H W rows and columns.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "yellow": (0.90, 0.90, 0.10),
    "green": (0.10, 0.90, 0.10),
    "cyan": (0.10, 0.90, 0.90),
    "blue": (0.10, 0.10, 0.90),
    "magenta": (0.90, 0.10, 0.90),
}
SHAPES: dict[str, tuple[float, float]] = {"circle": (0.17, 0.17), "bar": (0.26, 0.09), "pillar": (0.09, 0.26)}
"""Half width and half height as fractions of the frame."""
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TEMPLATES = (
    "a {colour} {shape} moves {direction}",
    "a {colour} {shape} is moving {direction}",
    "the {colour} {shape} goes {direction}",
)


@dataclass(frozen=True)
class Combination:
    """One colour, shape and direction, and the captions that say so."""

    colour: str
    shape: str
    direction: str

    def caption(self, template: int = 0) -> str:
        return TEMPLATES[template].format(colour=self.colour, shape=self.shape, direction=self.direction)


ALL_COMBINATIONS = tuple(Combination(*c) for c in itertools.product(COLOURS, SHAPES, DIRECTIONS))


def held_out_combinations() -> tuple[Combination, ...]:
    """Twelve combinations that no footage shows: two a colour, four a shape, three a direction."""
    colours, shapes, directions = list(COLOURS), list(SHAPES), list(DIRECTIONS)
    return tuple(Combination(colours[k // 2], shapes[k % 3], directions[k % 4]) for k in range(12))


def seen_combinations() -> tuple[Combination, ...]:
    held = set(held_out_combinations())
    return tuple(c for c in ALL_COMBINATIONS if c not in held)


def parse_caption(caption: str) -> Combination | None:
    """The combination that a caption names; None when it names none, or two of a kind."""
    words = re.findall(r"[a-z]+", caption.lower())
    found = [[w for w in words if w in names] for names in (COLOURS, SHAPES, DIRECTIONS)]
    if any(len(set(f)) != 1 for f in found):
        return None
    return Combination(found[0][0], found[1][0], found[2][0])


@dataclass(frozen=True)
class Motion:
    """Where a shape starts (centre, fractions), its scale, and how far it goes a frame (fraction of the side)."""

    x: float
    y: float
    scale: float
    speed: float


def sample_motion(combination: Combination, frames: int, rng: np.random.Generator) -> Motion:
    """A path of `frames` frames inside the picture: 0.30 to 0.42 of it every 17 frames, through its middle at half time, as
    footage of a subject is framed."""
    scale = rng.uniform(0.9, 1.1)
    half = [s * scale for s in SHAPES[combination.shape]]
    direction = DIRECTIONS[combination.direction]
    along = 0 if direction[0] else 1
    speed = min(rng.uniform(0.30, 0.42) / 16, (1 - 2 * half[along] - 0.02) / max(1, frames - 1))
    travel = speed * (frames - 1)
    start = []
    for axis, step in enumerate(direction):
        margin = half[axis] + 0.01 + (travel / 2 if axis == along else 0.0)
        middle = np.clip(rng.uniform(0.42, 0.58) if axis == along else rng.uniform(0.28, 0.72), min(margin, 0.5), max(1 - margin, 0.5))
        start.append(float(middle) - step * travel / 2)
    return Motion(start[0], start[1], scale, speed)


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A dim grey gradient [H, W, 3] in [0, 1]."""
    low, high = np.sort(rng.uniform(0.10, 0.50, 2))
    angle = rng.uniform(0, 2 * np.pi)
    yy, xx = np.mgrid[0:size, 0:size] / max(1, size - 1) - 0.5
    ramp = np.clip(0.5 + xx * np.cos(angle) + yy * np.sin(angle), 0, 1)
    grey = low + (high - low) * ramp
    return np.repeat(grey[..., None], 3, axis=2)


def silhouette(shape: str, x: float, y: float, scale: float, size: int) -> np.ndarray:
    """Coverage [H, W] in [0, 1] of a shape whose centre is (x, y); edges are one pixel soft."""
    half_w, half_h = (s * scale * size for s in SHAPES[shape])
    yy, xx = np.mgrid[0:size, 0:size] + 0.5
    dx, dy = np.abs(xx - x * size), np.abs(yy - y * size)
    if shape == "circle":
        return np.clip(half_w - np.hypot(dx, dy) + 0.5, 0, 1)
    return np.clip(half_w - dx + 0.5, 0, 1) * np.clip(half_h - dy + 0.5, 0, 1)


def render(combination: Combination, motion: Motion, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A clip uint8 [T, H, W, 3] of the combination; the speed is that of `motion`, zero for a still."""
    back = background(size, rng)
    colour = np.asarray(COLOURS[combination.colour])
    step_x, step_y = DIRECTIONS[combination.direction]
    clip = np.empty((frames, size, size, 3), np.uint8)
    for t in range(frames):
        x, y = motion.x + step_x * motion.speed * t, motion.y + step_y * motion.speed * t
        cover = silhouette(combination.shape, x, y, motion.scale, size)[..., None]
        clip[t] = np.round(255 * (back * (1 - cover) + colour * cover)).astype(np.uint8)
    return clip
