"""report.html of a comparison: one small file with everything embedded. Names, tags and words are others' and escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources

import jinja2

from mugv.curation.drift.compare import Column, Comparison
from mugv.figures import number

WIDTH, HEIGHT = 220, 44
TERMS_SHOWN = 6
WORDS_SHOWN = 40


def render(comparison: Comparison, verdict: str) -> str:
    """`verdict`: what was decided, in a sentence."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = number
    template = resources.files("mugv.curation.drift").joinpath("page.html.j2").read_text()
    return environment.from_string(template).render(c=comparison, verdict=verdict, drawing=drawing, words=WORDS_SHOWN)


def drawing(column: Column) -> str:
    """Both histograms over each other, or the terms that changed most with both shares."""
    old, new = column.shares
    if not old:
        return ""
    if len(column.labels) == 2 and len(old) != 2:
        return _histogram(old, new, column.labels)
    order = sorted(range(len(old)), key=lambda k: -abs(new[k] - old[k]))[:TERMS_SHOWN]
    rows = "".join(_term(column.labels[k], old[k], new[k]) for k in order)
    return f'<div class="terms">{rows}</div>'


def _histogram(old: Sequence[float], new: Sequence[float], ends: Sequence[str]) -> str:
    width, unit = WIDTH / len(old), HEIGHT / max(*old, *new, 1e-9)
    bars = "".join(_bar(k * width, width - 1, share * unit) for k, share in enumerate(new))
    steps = " ".join(f"{x * width:.1f},{HEIGHT - share * unit:.1f}" for k, share in enumerate(old) for x in (k, k + 1))
    left, right = map(escape, ends)
    return (
        f'<svg viewBox="0 -1 {WIDTH} {HEIGHT + 2}" role="img"><title>from {left} to {right}</title>{bars}'
        f'<polyline class="old" points="{steps}"/></svg><div class="ends"><span>{left}</span><span>{right}</span></div>'
    )


def _bar(x: float, width: float, height: float) -> str:
    return f'<rect class="new" x="{x:.1f}" y="{HEIGHT - height:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _term(name: str, old: float, new: float) -> str:
    return (
        f'<span title="{escape(name)}">{escape(name[:40])}</span><b><i class="was" style="width:{100 * old:.1f}%"></i>'
        f'<i style="width:{100 * new:.1f}%"></i></b><em>{old:.1%} → {new:.1%}</em>'
    )
