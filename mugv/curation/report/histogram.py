"""Inline SVG histograms of scores with the thresholds drawn in. Colours come from the page's CSS."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mugv.figures import number

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 16, 24
BINS = 46
SPAN = (0.5, 99.5)
"""Percentiles between which the axis runs: a few wild clips do not flatten the rest. What lies beyond counts in the outermost bins."""
LOGARITHMIC = 12.0
"""Ratio of the 95th to the 10th percentile from which on the axis is logarithmic."""
TICKS = 6


@dataclass(frozen=True)
class Axis:
    """Values to shares of the width."""

    low: float
    high: float
    logarithmic: bool

    def at(self, values: np.ndarray) -> np.ndarray:
        """0 to 1."""
        low, high = self._scale(np.array(self.low)), self._scale(np.array(self.high))
        return np.clip((self._scale(values) - low) / (high - low), 0, 1)

    def _scale(self, values: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(values, self.low)) if self.logarithmic else values

    def ticks(self) -> list[float]:
        """At most TICKS round numbers inside."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [step * 10.0**k for k in decades for step in steps if self.low <= step * 10.0**k <= self.high]
                if len(found) <= TICKS:
                    return found
            return found[:: -(-len(found) // TICKS)]
        step = 10 ** math.floor(math.log10((self.high - self.low) / 3))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= TICKS - 1)
        return [k * step for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def axis_of(values: np.ndarray, limits: list[float]) -> Axis:
    """From the values' percentiles, wide enough for the limits."""
    low, high = np.percentile(values, SPAN).tolist()
    tenth, most = np.percentile(values, (10, 95)).tolist()
    logarithmic = tenth > 0 and most / tenth > LOGARITHMIC and all(limit > 0 for limit in limits)
    if logarithmic:
        low = max(low, high / 1e4)
    low, high = min([low, *limits]), max([high, *limits])
    if logarithmic:
        return Axis(low / 1.15, high * 1.15, True)
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 0.5
    return Axis(low - margin if low - margin > 0 or low < 0 else min(low, 0.0), high + margin, False)


def histogram(kept: np.ndarray, rejected: np.ndarray, minimum: float | None, maximum: float | None, label: str) -> str:
    """Kept clips under rejected ones, stacked; what the limits reject lies in a tinted zone."""
    values = np.concatenate([kept, rejected])
    axis = axis_of(values, [limit for limit in (minimum, maximum) if limit is not None])
    edges = np.linspace(0, 1, BINS + 1)
    below, above = (np.histogram(axis.at(part), edges)[0] for part in (kept, rejected))
    tallest = max(1, int((below + above).max()))
    bars = "".join(_bar(k, int(a), int(b), tallest) for k, (a, b) in enumerate(zip(below, above, strict=True)) if a + b)
    zones = _zone(axis, minimum, "min") + _zone(axis, maximum, "max")
    floor = HEIGHT - BOTTOM
    ground = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
    marks = "".join(_tick(axis, value) for value in axis.ticks())
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{label}</title>{zones}{ground}{bars}{marks}</svg>'


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _bar(place: int, kept: int, rejected: int, tallest: int) -> str:
    x, width = _x(place / BINS) + 0.6, (WIDTH - LEFT - RIGHT) / BINS - 1.2
    unit, floor = (HEIGHT - TOP - BOTTOM) / tallest, HEIGHT - BOTTOM
    parts, y = [], float(floor)
    for count, kind in ((kept, "kept"), (rejected, "gone")):
        if count:
            height = max(1.2, count * unit)
            y -= height
            parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>')
    return "".join(parts)


def _zone(axis: Axis, limit: float | None, side: str) -> str:
    if limit is None:
        return ""
    x = _x(float(axis.at(np.array(limit))))
    start, end = (LEFT, x) if side == "min" else (x, WIDTH - RIGHT)
    anchor, dx = ("start", 4) if x < WIDTH / 2 else ("end", -4)
    return (
        f'<rect class="zone" x="{start:.1f}" y="{TOP}" width="{max(0.0, end - start):.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'
        f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="limit" text-anchor="{anchor}" x="{x + dx:.1f}" y="12">{side} {number(limit)}</text>'
    )


def _tick(axis: Axis, value: float) -> str:
    x = _x(float(axis.at(np.array(value))))
    return f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{HEIGHT - 8}">{number(value)}</text>'
