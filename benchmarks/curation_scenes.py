"""Takes for the footage with known truth: a textured world, a camera that moves over it, things that move in it. No file, no truth.

A take is a function of time in seconds, also before 0 and after its end, so that transitions show motion going on. Everything
follows from the seed. Distances are shares of the picture's height unless a name says pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

Size = tuple[int, int]
"""(rows, columns), pixels."""


@dataclass(frozen=True)
class Camera:
    """Drift, zoom, handheld sway, and what the defects add."""

    speed: tuple[float, float] = (0.0, 0.0)
    """Heights a second, right and down."""
    zoom: float = 0.0
    """Growth a second, natural logarithm."""
    sway: float = 0.003
    """Amplitude of the handheld sway."""
    shake: float = 0.0
    """Amplitude of a jerky shake at 4 to 9 Hz."""
    whip: tuple[float, float, float] = (0.0, 1.0, 0.0)
    """A quick pan: when it starts, how long it takes (seconds), how far it goes."""


@dataclass(frozen=True)
class Look:
    """What a take is made of."""

    worlds: tuple[str, ...]
    objects: int = 3
    foreground: float = 0.4
    """Chance of a nearer layer that slides faster than the world."""
    noise: float = 2.0
    """Standard deviation of the sensor's noise, levels."""
    gain: float = 1.0
    palette: int = 0
    """Seed of the colours, so that two takes may share them."""
    close: float = 0.0
    """When above 0: something large and near passes across the picture, starting at this second."""
    object_speed: float = 0.35
    camera: Camera = field(default_factory=Camera)


LOOKS = {"a": ("fractal", "landscape", "street", "interior", "photo"), "b": ("stones", "waves", "balls", "cloth", "fractal")}


def noise_field(rng: np.random.Generator, size: Size, exponent: float) -> np.ndarray:
    """Noise float32 [H, W] of mean 0 and deviation 1 whose amplitude falls as 1 / frequency ** exponent, as in natural pictures."""
    rows, columns = size
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal(size).astype(np.float32)) / frequency**exponent
    spectrum[0, 0] = 0
    grey = np.fft.irfft2(spectrum, s=size).astype(np.float32)
    return grey / (grey.std() + 1e-6)


def palette(rng: np.random.Generator, colours: int = 5) -> np.ndarray:
    """Colour table uint8 [256, 3] through a few related hues, dark to bright."""
    hue, grey = rng.uniform(0, 180), rng.uniform(0.25, 1.0)
    stops = np.array([[(hue + rng.normal(0, 22)) % 180, grey * rng.uniform(40, 190), v] for v in np.linspace(25, 240, colours)], np.uint8)
    bgr = cv2.cvtColor(stops[None], cv2.COLOR_HSV2BGR)[0].astype(np.float32)
    at = np.linspace(0, 255, colours)
    return np.stack([np.interp(np.arange(256), at, bgr[:, c]) for c in range(3)], axis=1).astype(np.uint8)


def coloured(grey: np.ndarray, table: np.ndarray, spread: float = 52.0, middle: float = 120.0) -> np.ndarray:
    """Colours uint8 [H, W, 3] of a field of deviation 1."""
    return table[np.clip(middle + spread * grey, 0, 255).astype(np.uint8)]


def _fractal(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    grey = noise_field(rng, size, float(rng.uniform(1.1, 1.5)))
    ridged = 1.6 - 2 * np.abs(noise_field(rng, size, 1.6)) if rng.random() < 0.5 else noise_field(rng, size, 2.2)
    return coloured(0.6 * grey + 0.6 * ridged, palette(tables))


def _landscape(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    rows, columns = size
    sky = np.linspace(2.0, 0.3, rows, dtype=np.float32)[:, None] + 0.35 * noise_field(rng, size, 2.0)
    picture = coloured(sky, palette(tables), 45, 120)
    y, x = np.arange(rows)[:, None], np.arange(columns)
    for k in range(int(rng.integers(3, 6))):
        walk = np.cumsum(0.002 * np.cumsum(rng.standard_normal(columns)) + 6 * rng.standard_normal(columns))
        ridge = rows * (0.35 + 0.13 * k) + 0.05 * rows * (walk - np.linspace(walk[0], walk[-1], columns)) / (walk.std() + 1e-6)
        texture = coloured(noise_field(rng, size, 1.15) * 0.9 - 0.2 * k, palette(tables), 42, 130 - 12 * k)
        picture = np.where((y > ridge[x])[..., None], texture, picture)
    return picture


def _street(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    rows, columns = size
    picture = coloured(np.linspace(1.8, 0.2, rows, dtype=np.float32)[:, None] + 0.25 * noise_field(rng, size, 2.0), palette(tables))
    texture, left = noise_field(rng, size, 1.0), 0
    while left < columns:
        width, top = int(rng.uniform(0.1, 0.3) * rows), int(rng.uniform(0.1, 0.5) * rows)
        colour = palette(tables)[int(rng.integers(60, 220))].astype(np.float32)
        block = picture[top:, left : left + width]
        block[:] = np.clip(colour + 11 * texture[top:, left : left + width, None], 0, 255)
        _windows(rng, block, palette(tables))
        left += width + int(rng.integers(0, 12))
    road = coloured(1.2 * noise_field(rng, size, 1.1), palette(tables), 30, 85)
    picture[int(0.84 * rows) :] = road[int(0.84 * rows) :]
    return picture


def _windows(rng: np.random.Generator, block: np.ndarray, table: np.ndarray) -> None:
    step_y, step_x = int(rng.integers(22, 46)), int(rng.integers(16, 40))
    for y in range(8, block.shape[0] - step_y, step_y):
        for x in range(6, block.shape[1] - step_x, step_x):
            colour = table[int(rng.integers(256))].tolist()
            cv2.rectangle(block, (x, y), (x + step_x // 2, y + step_y * 3 // 5), colour, -1)


def _interior(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    rows, columns = size
    wall = palette(tables)
    picture = coloured(np.linspace(0.8, -0.6, columns, dtype=np.float32)[None] + 0.3 * noise_field(rng, size, 1.2), wall, 40, 150)
    for _ in range(int(rng.integers(9, 16))):
        h, w = int(rng.uniform(0.08, 0.35) * rows), int(rng.uniform(0.08, 0.3) * rows)
        y, x = int(rng.integers(0, rows - h)), int(rng.integers(0, columns - w))
        face = coloured(noise_field(rng, (h, w), float(rng.uniform(0.9, 1.6))), palette(tables), 38, float(rng.uniform(70, 180)))
        cv2.rectangle(picture, (x + 6, y + 6), (x + w + 6, y + h + 6), (20, 20, 24), -1)
        picture[y : y + h, x : x + w] = face
    return picture


def _photo(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    """A photograph of scikit-learn's samples, a part of it, mirrored or not, in other colours; without the package a fractal."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        return _fractal(rng, tables, size)
    photo = load_sample_images().images[int(rng.integers(2))][..., ::-1]
    left = int(rng.integers(0, 120))
    photo = np.ascontiguousarray(photo[:, left : left + 520][:, :: int(rng.choice([-1, 1]))])
    hsv = cv2.cvtColor(photo, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + int(rng.integers(-25, 25))) % 180
    photo = cv2.resize(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), None, fx=0.62 * size[0] / 427, fy=0.62 * size[0] / 427)
    return np.clip(photo + 5 * noise_field(rng, photo.shape[:2], 0.3)[..., None], 0, 255).astype(np.uint8)


def _stones(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    seeds = np.full(size, 255, np.uint8)
    count = int(rng.integers(150, 900))
    seeds[rng.integers(0, size[0], count), rng.integers(0, size[1], count)] = 0
    far, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tone = rng.normal(0, 0.7, int(cell.max()) + 1).astype(np.float32)[cell]
    shade = tone - 1.6 * far / far.max() + 0.35 * noise_field(rng, size, 1.1)
    return coloured(shade, palette(tables), 50, 150)


def _waves(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    rows, columns = size
    depth = np.linspace(0.25, 1.0, rows, dtype=np.float32)[:, None]
    warp = 2.5 * noise_field(rng, size, 2.0)
    x = np.arange(columns, dtype=np.float32)[None] / rows
    swell = sum(np.sin(rng.uniform(6, 40) * x / depth + rng.uniform(30, 140) * depth + warp + rng.uniform(0, 6)) for _ in range(4))
    glitter = np.maximum(noise_field(rng, size, 0.8) - 1.4, 0)
    return coloured(0.45 * swell + 1.1 * glitter + 0.4 * noise_field(rng, size, 1.2), palette(tables), 45, 115)


def _balls(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    picture = coloured(0.9 * noise_field(rng, size, 1.3), palette(tables), 40, 100)
    for _ in range(int(rng.integers(60, 160))):
        radius = int(rng.uniform(0.03, 0.13) * size[0])
        y, x = int(rng.integers(radius, size[0] - radius)), int(rng.integers(radius, size[1] - radius))
        patch, alpha = _ball(rng, radius, palette(tables))
        part = picture[y - radius : y + radius, x - radius : x + radius]
        part[:] = np.where(alpha[..., None] > 127, patch, part)
    return picture


def _cloth(rng: np.random.Generator, tables: np.random.Generator, size: Size) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) / size[0]
    folds = noise_field(rng, size, 2.4)
    threads = np.sin(rng.uniform(60, 160) * (x + 0.05 * folds)) + np.sin(rng.uniform(60, 160) * (y + 0.05 * folds))
    checks = np.sign(np.sin(rng.uniform(8, 25) * x + folds)) * np.sign(np.sin(rng.uniform(8, 25) * y))
    return coloured(0.3 * threads + 0.5 * checks + 0.8 * folds + 0.2 * noise_field(rng, size, 1.0), palette(tables), 42, 125)


WORLDS: dict[str, Callable[[np.random.Generator, np.random.Generator, Size], np.ndarray]] = {
    "fractal": _fractal,
    "landscape": _landscape,
    "street": _street,
    "interior": _interior,
    "photo": _photo,
    "stones": _stones,
    "waves": _waves,
    "balls": _balls,
    "cloth": _cloth,
}


def _ball(rng: np.random.Generator, radius: int, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A lit, textured ball: colours [2r, 2r, 3] and its opacity [2r, 2r]."""
    y, x = (np.mgrid[: 2 * radius, : 2 * radius].astype(np.float32) - radius + 0.5) / radius
    light = 1.2 - 1.1 * np.hypot(x + 0.35, y + 0.35)
    texture = noise_field(rng, (2 * radius, 2 * radius), 1.2)
    alpha = cv2.GaussianBlur(((np.hypot(x, y) < 0.97) * 255).astype(np.uint8), (3, 3), 0)
    return coloured(0.9 * light + 0.45 * texture, table, 60, 110), alpha


def _thing(rng: np.random.Generator, tables: np.random.Generator, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Something that moves: a ball, a boxy vehicle, or a shape with a wavy outline."""
    kind = int(rng.integers(3))
    if kind == 0:
        return _ball(rng, pixels // 2, palette(tables))
    side = pixels // 2 * 2
    patch = coloured(noise_field(rng, (side, side), 1.1), palette(tables), 45, float(rng.uniform(70, 190)))
    alpha = np.zeros((side, side), np.uint8)
    if kind == 1:
        cv2.rectangle(alpha, (0, side // 3), (side, side * 4 // 5), 255, -1)
        cv2.rectangle(alpha, (side // 5, side // 8), (side * 3 // 4, side // 3), 255, -1)
        for x in (side // 4, side * 3 // 4):
            cv2.circle(patch, (x, side * 4 // 5), side // 8, (24, 24, 24), -1)
            cv2.circle(alpha, (x, side * 4 // 5), side // 8, 255, -1)
    else:
        angle = np.linspace(0, 2 * np.pi, 60)
        wavy = 0.33 + 0.1 * np.sin(int(rng.integers(2, 6)) * angle + rng.uniform(0, 6))
        outline = side * (0.5 + wavy[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1))
        cv2.fillPoly(alpha, [outline.astype(np.int32)], 255)
    return patch, cv2.GaussianBlur(alpha, (3, 3), 0)


class Take:
    """One take. `at(seconds)` gives its picture, uint8 [H, W, 3] in RGB order."""

    def __init__(self, seed: int, size: Size, look: Look) -> None:
        rng, self.size, self.look = np.random.default_rng([seed, 1]), size, look
        tables = np.random.default_rng([look.palette, 2])
        canvas = (int(size[0] * 1.8), int(max(size) * 1.8))
        world = look.worlds[int(rng.integers(len(look.worlds)))]
        self.world = np.ascontiguousarray(WORLDS[world](rng, tables, canvas))
        self.offset = rng.uniform(-0.25, 0.25, 2)
        self.phase = rng.uniform(0, 2 * np.pi, 12)
        self.near = self._near(rng, tables) if rng.random() < look.foreground else None
        self.things = [self._mover(rng, tables) for _ in range(look.objects)]
        self.grain = np.repeat(rng.normal(0, look.noise, (size[0] + 64, size[1] + 64, 1)), 3, axis=2).round().astype(np.int16)
        self.places = rng.integers(0, 64, (997, 2))
        self.light = float(rng.uniform(0, 0.07))
        big = int(1.1 * size[0])
        self.passing = _ball(rng, big // 2, palette(tables)) if look.close else None

    def _near(self, rng: np.random.Generator, tables: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
        """Trunks, posts or bushes nearer to the camera: premultiplied colours, what they let through, and how much faster they slide."""
        rows, columns = self.world.shape[:2]
        alpha = np.zeros((rows, columns), np.uint8)
        for _ in range(int(rng.integers(3, 8))):
            x, w = int(rng.integers(0, columns)), int(rng.uniform(0.03, 0.1) * self.size[0])
            if rng.random() < 0.5:
                cv2.rectangle(alpha, (x, 0), (x + w, rows), 255, -1)
            else:
                cv2.ellipse(alpha, (x, int(rows * 0.8)), (3 * w, 2 * w), 0, 0, 360, 255, -1)
        texture = coloured(noise_field(rng, (rows, columns), 1.1), palette(tables), 35, float(rng.uniform(50, 130)))
        opaque = cv2.merge([alpha] * 3)
        return cv2.multiply(texture, opaque, scale=1 / 255), 255 - opaque, float(rng.uniform(1.3, 1.8))

    def _mover(self, rng: np.random.Generator, tables: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        patch, alpha = _thing(rng, tables, int(rng.uniform(0.14, 0.42) * self.size[0]))
        direction = rng.uniform(0, 2 * np.pi)
        speed = self.look.object_speed * rng.uniform(0.7, 1.4)
        wide = self.size[1] / self.size[0]
        path = [rng.uniform(0.1, 0.9) * wide, rng.uniform(0.15, 0.85), speed * np.cos(direction), 0.6 * speed * np.sin(direction)]
        return patch, alpha, np.array([*path, rng.uniform(-60, 60)])

    def at(self, seconds: float) -> np.ndarray:
        matrix, (dx, dy) = self._view(seconds)
        size = self.size[1], self.size[0]
        picture = cv2.warpAffine(self.world, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for patch, alpha, path in self.things:
            self._paste(picture, patch, alpha, path, seconds, (dx, dy))
        if self.near is not None:
            self._lay_near(picture, matrix, (dx, dy))
        if self.passing is not None:
            across = (seconds - self.look.close) * 2.2 - 0.6
            path = np.array([across * self.size[1] / self.size[0], 0.5, 0, 0, 0])
            self._paste(picture, *self.passing, path, 0.0, (0.0, 0.0))
        return cv2.cvtColor(self._exposed(picture, seconds), cv2.COLOR_BGR2RGB)

    def _view(self, seconds: float) -> tuple[np.ndarray, tuple[float, float]]:
        """The camera's affine matrix (world to picture) and how far the world has moved, in heights."""
        camera, p = self.look.camera, self.phase
        x, y = (camera.speed[k] * seconds for k in (0, 1))
        sway = [
            camera.sway * (np.sin(2 * np.pi * f * seconds + p[k]) + 0.5 * np.sin(5.3 * f * seconds + p[k + 1]))
            for k, f in enumerate((0.9, 0.7))
        ]
        jerk = [camera.shake * sum(np.sin(2 * np.pi * f * seconds + p[k + j]) for j, f in enumerate((4.1, 6.3, 8.7))) / 2 for k in (2, 6)]
        start, lasts, far = camera.whip
        x += far * float(np.clip((seconds - start) / lasts, 0, 1))
        dx, dy = x + sway[0] + jerk[0], y + sway[1] + jerk[1]
        scale = float(np.exp(camera.zoom * seconds))
        rows, columns = self.world.shape[:2]
        middle = np.array([columns / 2, rows / 2]) + (self.offset + np.array([dx, dy])) * self.size[0]
        corner = np.array([self.size[1] / 2, self.size[0] / 2]) - scale * middle
        return np.array([[scale, 0, corner[0]], [0, scale, corner[1]]], np.float32), (dx, dy)

    def _lay_near(self, picture: np.ndarray, matrix: np.ndarray, moved: tuple[float, float]) -> None:
        assert self.near is not None
        colours, clear, faster = self.near
        shifted = matrix.copy()
        shifted[:, 2] -= (faster - 1) * np.array(moved, np.float32) * self.size[0]
        size = self.size[1], self.size[0]
        flags = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
        through = cv2.multiply(picture, cv2.warpAffine(clear, shifted, size, **flags), scale=1 / 255)
        cv2.add(through, cv2.warpAffine(colours, shifted, size, **flags), dst=picture)

    def _paste(
        self, picture: np.ndarray, patch: np.ndarray, alpha: np.ndarray, path: np.ndarray, seconds: float, moved: tuple[float, float]
    ) -> None:
        """Draw a thing where its path has led it; it bounces softly off the edges of the world around the picture."""
        side, wide = patch.shape[0], self.size[1] / self.size[0]
        x = _folded(path[0] + path[2] * seconds, -0.1, wide + 0.1) if path[2] else path[0]
        y = _folded(path[1] + path[3] * seconds, 0.05, 0.95) if path[3] else path[1]
        x, y = (x - 0.3 * moved[0]) * self.size[0], (y - 0.3 * moved[1]) * self.size[0]
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), path[4] * np.sin(seconds), 1.0)
        left, top = int(np.floor(x - side / 2)), int(np.floor(y - side / 2))
        turn[:, 2] += (x - side / 2 - left, y - side / 2 - top)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, self.size[1]), min(top + side, self.size[0])
        if x0 >= x1 or y0 >= y1:
            return
        part = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        colours, opaque = (cv2.warpAffine(a, turn, (side, side)) for a in (patch, alpha))
        cover = opaque[part][..., None].astype(np.uint16)
        spot = picture[y0:y1, x0:x1]
        spot[:] = ((spot * (255 - cover) + colours[part] * cover) // 255).astype(np.uint8)

    def _exposed(self, picture: np.ndarray, seconds: float) -> np.ndarray:
        gain = self.look.gain * (1 + self.light * np.sin(1.7 * seconds + self.phase[0]))
        y, x = self.places[round(float(seconds) * 240) % 997]
        grain = self.grain[y : y + self.size[0], x : x + self.size[1]]
        return cv2.add(cv2.convertScaleAbs(picture, alpha=gain), grain, dtype=cv2.CV_8U)


def _folded(value: float, low: float, high: float) -> float:
    span = high - low
    return low + abs((value - low + span) % (2 * span) - span)


def sampled_look(rng: np.random.Generator, worlds: tuple[str, ...]) -> Look:
    """Ordinary footage: the camera drifts, zooms or stands on things that move; mean flow about 1.5 to 12 pixels in 0.125 s at 360 rows."""
    style, turn = int(rng.integers(4)), rng.uniform(0, 2 * np.pi)
    speed = float(rng.uniform(0.06, 0.24)) if style in (0, 1) else float(rng.uniform(0.035, 0.06))
    zoom = float(rng.choice([-1, 1]) * rng.uniform(0.06, 0.16)) if style == 2 else 0.0
    camera = Camera((speed * float(np.cos(turn)), 0.6 * speed * float(np.sin(turn))), zoom, float(rng.uniform(0.001, 0.005)))
    look = Look(worlds, int(rng.integers(1, 4)), noise=float(rng.uniform(0.8, 3.0)), palette=int(rng.integers(1 << 30)), camera=camera)
    if style == 3:
        return replace(look, objects=int(rng.integers(4, 7)), object_speed=0.55)
    return look
