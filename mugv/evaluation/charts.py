"""Inline SVG for the report: loss curves, a rate with its interval, shares of a whole. Colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mugv.figures import number

WIDTH, HEIGHT = 460, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
POINTS = 240
"""A curve is thinned to this many points: one a pixel or two."""


def line_chart(steps: Sequence[float], values: Sequence[float], label: str) -> str:
    """A metric over steps: each value faint, a centred running mean bold. Values that are not finite are left out."""
    points = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v) and math.isfinite(s)]
    if not points:
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} 40"><text x="8" y="24" class="tick">no finite values of {escape(label)}</text></svg>'
        )
    smooth = _running_mean([v for _, v in points])
    low, high = _span([v for _, v in points])
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    faint = _path([(_x(s, first, last), _y(v, low, high)) for s, v in _thinned(points)])
    bold = _path([(_x(s, first, last), _y(v, low, high)) for s, v in _thinned([(p[0], v) for p, v in zip(points, smooth, strict=True)])])
    rows = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(v, low, high):.1f}" y2="{_y(v, low, high):.1f}"/>'
        for v in _ticks(low, high)
    ]
    rows += [
        f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{_y(v, low, high) + 3.5:.1f}">{number(v)}</text>'
        for v in _ticks(low, high)
    ]
    rows += [
        f'<text class="tick" text-anchor="{anchor}" x="{_x(s, first, last):.1f}" y="{HEIGHT - 8}">{s:.0f}</text>'
        for s, anchor in ((first, "start"), ((first + last) / 2, "middle"), (last, "end"))
    ]
    title = f"{escape(label)}: {number(points[0][1])} at step {first:.0f}, {number(smooth[-1])} at the end"
    curve = f'<path class="faint" d="{faint}"/><path class="bold" d="{bold}"/>'
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{title}</title>{"".join(rows)}{curve}</svg>'


def interval_bar(value: float, low: float, high: float, bar: float | None, chance: float | None) -> str:
    """A rate in [0, 1] with its interval; a tall tick at the bar to reach, a dotted one at chance."""
    passed = bar is None or value >= bar
    shapes = [
        '<rect class="track" x="0" y="6" width="100" height="4" rx="2"/>',
        f'<rect class="interval" x="{100 * low:.1f}" y="5" width="{max(0.8, 100 * (high - low)):.1f}" height="6" rx="3"/>',
        f'<circle class="point" cx="{100 * value:.1f}" cy="8" r="3.4"/>',
    ]
    if chance is not None:
        shapes.append(f'<line class="chance" x1="{100 * chance:.1f}" x2="{100 * chance:.1f}" y1="3" y2="13"/>')
    if bar is not None:
        shapes.append(f'<line class="bar" x1="{100 * bar:.1f}" x2="{100 * bar:.1f}" y1="1" y2="15"/>')
    return f'<svg class="rate {"pass" if passed else "fail"}" viewBox="-4 0 108 16">{"".join(shapes)}</svg>'


def _running_mean(values: Sequence[float]) -> list[float]:
    reach = max(1, len(values) // 40)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    spans = [(max(0, k - reach), min(len(values), k + reach + 1)) for k in range(len(values))]
    return [(sums[b] - sums[a]) / (b - a) for a, b in spans]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Limits that a few wild first steps do not stretch: the smallest value to the 98th percentile, with a margin."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[min(len(ordered) - 1, math.ceil(0.98 * (len(ordered) - 1)))]
    margin = 0.06 * (high - low) or max(abs(high), 1e-6) * 0.1
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers inside the limits."""
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 5)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _x(step: float, first: float, last: float) -> float:
    return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)


def _y(value: float, low: float, high: float) -> float:
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    every = max(1, len(points) // POINTS)
    kept = list(points[::every])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
