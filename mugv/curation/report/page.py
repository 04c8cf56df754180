"""report.html of a clip set: one file with everything embedded. The same clips give the same page."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from mugv.curation.explain import Explained, explain, judged, values_of
from mugv.curation.report.histogram import histogram
from mugv.curation.rows import ClipRow
from mugv.curation.rules import RULES
from mugv.figures import number
from mugv.recipe.schema import Curation

UNITS = {
    "sharpness": "variance of the Laplacian",
    "motion": "optical flow, pixels a pair",
    "aesthetic": "about 1 to 10",
    "exposure": "mean luma, 0 to 255",
    "contrast": "5th to 95th percentile of luma",
    "saturation": "largest minus smallest of R, G, B",
    "border": "share of the picture",
    "text": "share of the picture",
    "shake": "pixels at short side 360",
    "freeze": "longest still run, share of the clip",
    "speed_change": "octaves",
    "blockiness": "8 x 8 grid against elsewhere, 1 is none",
    "bits_per_pixel": "bits a pixel",
    "source_seconds": "length of the source, s",
    "source_fps": "frames a second of the source",
    "aspect": "width over height",
}
REASONS = {
    "duplicate": "shows what another clip shows",
    "balance": "surplus beside the shares of the tags",
    "transition": "a cut, fade or dissolve runs through it",
    "too_short": "its shot gives no whole clip",
    "truncated": "the file ends inside its shot",
    "corrupt": "the decoder had to make up pictures, or showed what a key frame then put right",
    "unreadable": "the file cannot be decoded",
    "failed": "reading it raised an error of the program",
    "no_video": "the file has no video stream",
    "vanished": "the source was gone when it was read",
    "no_caption": "no caption, and one is required",
    "bad_caption": "the caption failed its check",
    "black": "black frames",
    "title": "a title card",
}
SHOWN_SCORES = ("sharpness", "motion", "aesthetic")
TAGS_SHOWN = 18


@dataclass(frozen=True)
class Tile:
    value: str
    name: str
    detail: str = ""


@dataclass(frozen=True)
class Bar:
    """A count among others; `share` of the longest in per cent."""

    name: str
    count: int
    share: float
    text: str = ""


@dataclass(frozen=True)
class Chart:
    """A score's histogram."""

    line: Explained
    unit: str
    drawing: str
    quantiles: list[str]


@dataclass(frozen=True)
class Picture:
    """A strip with what stands over it."""

    uri: str
    title: str
    note: str
    scores: str = ""


@dataclass(frozen=True)
class Group:
    """Clips of one reason; the kept ones have none."""

    reason: str
    count: int
    text: str
    pictures: list[Picture]


def render_report(
    rows: Sequence[ClipRow], card: Mapping[str, Any], shown: Mapping[str, Sequence[tuple[ClipRow, bytes]]], settings: Curation
) -> str:
    """The page. card: mugv.curation.report.card; shown: mugv.curation.report.strips.choose. Captions and names are escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("mugv.curation.report").joinpath("page.html.j2").read_text()
    groups = _groups(rows, shown)
    return environment.from_string(template).render(
        card=card,
        score_only=settings.score_only,
        tiles=_tiles(rows, card),
        reasons=_reasons(rows),
        charts=_charts(rows, settings),
        kept=next((group for group in groups if not group.reason), None),
        groups=[group for group in groups if group.reason],
        tags=_bars(Counter(tag for row in rows if row.status != "rejected" for tag in row.tags), TAGS_SHOWN),
        licences=_bars(Counter(card["licences"])),
    )


def _tiles(rows: Sequence[ClipRow], card: Mapping[str, Any]) -> list[Tile]:
    kept, scored = sum(card["clips"].values()), sum(card["scored"].values())
    candidates = sum(1 for row in rows if row.end_frame)
    splits = ", ".join(f"{count} {split}" for split, count in card["clips"].items())
    first = Tile(f"{scored:,}", "clips scored", "none was dropped") if scored else Tile(f"{kept:,}", "clips kept", splits)
    share = f"{100 * kept / candidates:.0f} % of the candidates" if candidates and not scored else ""
    tiles = [first, Tile(f"{candidates:,}", "candidates", share)]
    if not scored:
        sizes = "; ".join(card["sizes"]) if len(card["sizes"]) <= 2 else f"in {len(card['sizes'])} sizes"
        tiles.append(Tile(_duration(card["seconds"]), "of kept footage", sizes))
    tiles.append(Tile(f"{card['sources']:,}", "sources", f"{card['sources_kept']:,} of them gave clips" if not scored else ""))
    return tiles


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _reasons(rows: Sequence[ClipRow]) -> list[Bar]:
    return _bars(Counter(row.reason for row in rows if row.reason))


def _bars(counts: Mapping[str, int], most: int = 1000) -> list[Bar]:
    """The largest first."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [Bar(name, count, 100 * count / order[0][1], reason_text(name)) for name, count in order]


def reason_text(reason: str) -> str:
    """What a reason means, in a few words; empty for what is no reason."""
    for rule in RULES:
        if reason in (rule.low, rule.high):
            return f"{rule.score.replace('_', ' ')} {'under the minimum' if reason == rule.low else 'over the maximum'}"
    return REASONS.get(reason, "")


def _charts(rows: Sequence[ClipRow], settings: Curation) -> list[Chart]:
    clips = judged(rows)
    kept, gone = [row for row in clips if not row.reason], [row for row in clips if row.reason]
    charts = []
    # Scores with thresholds first.
    for line in sorted(explain(rows, settings), key=lambda one: one.minimum is None and one.maximum is None):
        if line.measured:
            label = f"{line.score}: median {number(line.quantiles[3])} of {line.measured} clips"
            drawing = histogram(values_of(kept, line.score), values_of(gone, line.score), line.minimum, line.maximum, label)
            charts.append(Chart(line, UNITS.get(line.score, ""), drawing, [number(q) for q in line.quantiles]))
    return charts


def _groups(rows: Sequence[ClipRow], shown: Mapping[str, Sequence[tuple[ClipRow, bytes]]]) -> list[Group]:
    counts = Counter(row.reason for row in rows)
    groups = [Group(reason, counts[reason], reason_text(reason), [_picture(*one) for one in some]) for reason, some in shown.items()]
    return sorted(groups, key=lambda group: (-group.count, group.reason))


def _picture(row: ClipRow, strip: bytes) -> Picture:
    uri = f"data:image/jpeg;base64,{base64.b64encode(strip).decode()}"
    where = f"{row.source}, {_clock(row.start_seconds)}"
    if row.reason:
        return Picture(uri, row.detail or row.reason, where)
    scores = ", ".join(f"{name} {number(value)}" for name in SHOWN_SCORES if (value := getattr(row, name)) is not None)
    return Picture(uri, row.caption or "no caption", where, scores)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"
