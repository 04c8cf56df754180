"""Filters against human labels: precision and recall of each, and the thresholds that the labels propose.

labels.csv has columns clip_id and label; a label is `keep`, or the reasons for which a person would reject the clip, separated by |.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mugv.curation.explain import values_of
from mugv.curation.rows import ClipRow
from mugv.curation.rules import NO_CAPTION, RULES, Rule, failures, limits
from mugv.errors import UserError
from mugv.json_lines import shown
from mugv.recipe.schema import Curation

KEEP = "keep"
OTHER_REASONS = ("transition", "too_short", "duplicate", "corrupt", "truncated", "unreadable", "bad_caption", "balance", NO_CAPTION)


@dataclass(frozen=True)
class Quality:
    """How well a filter agrees with people, counted in clips."""

    hits: int
    """Rejected by both."""
    alarms: int
    """Rejected by the filter alone."""
    misses: int
    """Rejected by people alone."""

    @property
    def precision(self) -> float | None:
        """Share of the filter's rejections that people agree with; None when it rejects nothing."""
        return self.hits / (self.hits + self.alarms) if self.hits + self.alarms else None

    @property
    def recall(self) -> float | None:
        """Share of what people reject that the filter rejects; None when people reject nothing."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else None

    @property
    def f1(self) -> float:
        whole = 2 * self.hits + self.alarms + self.misses
        return 2 * self.hits / whole if whole else 0.0


@dataclass(frozen=True)
class Calibrated:
    """One reason: what the recipe's limit does, and the limit with the best F1 on the labels."""

    reason: str
    score: str
    """Empty for a reason without a threshold."""
    side: str
    """minimum | maximum, empty without a threshold."""
    limit: float | None
    now: Quality
    proposed: float | None
    then: Quality | None
    """None where the labels propose nothing."""


def read_labels(path: Path, known: Mapping[str, ClipRow]) -> dict[str, frozenset[str]]:
    """clip_id -> reasons, empty for keep. Raises UserError in one line for a bad file, clip or label."""
    labels: dict[str, frozenset[str]] = {}
    for where, clip, label in _lines(path):
        if clip not in known:
            raise UserError(f"{where}: clip {shown(clip)} is not in the clip set; use clip_id of its manifest")
        if clip in labels:
            raise UserError(f"{where}: clip {clip!r} has a label already")
        labels[clip] = _reasons(label, where)
    if not labels:
        raise UserError(f"{path.name}: no labels; give a line a clip, such as {next(iter(known), 'clip')},keep")
    return labels


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Where, clip_id and label of every line. Raises UserError for what is no such table."""
    if path.exists() and not path.is_file():
        raise UserError(f"--calibrate {path}: not a file; give a CSV file with the columns clip_id,label")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--calibrate {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--calibrate {path}: not UTF-8 text") from None
    # Not str.splitlines(), which also parts lines at U+2028, U+0085 and form feeds.
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [name for name in ("clip_id", "label") if name not in (lines.fieldnames or ())]
        if missing:
            raise UserError(f"{path.name} line 1: column {missing[0]!r} is missing; the columns are clip_id,label")
        for line in lines:
            yield f"{path.name} line {lines.line_num}", (line["clip_id"] or "").strip(), (line["label"] or "").strip()
    except csv.Error as error:
        raise UserError(f"{path.name} near line {lines.line_num}: not CSV ({error}); expected clip_id,label") from None


def calibrate(rows: Sequence[ClipRow], labels: Mapping[str, frozenset[str]], settings: Curation) -> list[Calibrated]:
    """A line a reason that people or the recipe gave, in the rules' order, then the reasons without a threshold."""
    clips = [row for row in rows if row.clip_id in labels]
    given = [{*failures(row, settings), *([row.reason] if row.reason in OTHER_REASONS else [])} for row in clips]
    wanted = [labels[row.clip_id] for row in clips]
    found = []
    for rule in RULES:
        limit = limits(rule, settings)
        for side, reason, value in (("minimum", rule.low, limit.minimum), ("maximum", rule.high, limit.maximum)):
            now = _quality([reason in g for g in given], [reason in w for w in wanted])
            proposed, then = _propose(clips, [reason in w for w in wanted], rule, side)
            found.append(Calibrated(reason, rule.score, side, value, now, proposed, then))
    for reason in OTHER_REASONS:
        now = _quality([reason in g for g in given], [reason in w for w in wanted])
        found.append(Calibrated(reason, "", "", None, now, None, None))
    return [line for line in found if line.now.hits + line.now.alarms + line.now.misses]


def overall(rows: Sequence[ClipRow], labels: Mapping[str, frozenset[str]], settings: Curation) -> Quality:
    """Rejecting a clip for any reason, against people rejecting it for any."""
    clips = [row for row in rows if row.clip_id in labels]
    gone = [bool(failures(row, settings)) or row.reason in OTHER_REASONS for row in clips]
    return _quality(gone, [bool(labels[row.clip_id]) for row in clips])


def as_yaml(found: Sequence[Calibrated]) -> str:
    """The proposed limits as the part `curation` of a recipe."""
    sides: dict[str, list[str]] = {}
    for line in found:
        if line.proposed is not None:
            sides.setdefault(line.score, []).append(f"{line.side}: {line.proposed:g}")
    return "curation:\n" + "".join(f"  {score}: {{{', '.join(limits_)}}}\n" for score, limits_ in sides.items()) if sides else ""


def _reasons(label: str, where: str) -> frozenset[str]:
    known = {reason for rule in RULES for reason in (rule.low, rule.high)} | set(OTHER_REASONS)
    if label == KEEP:
        return frozenset()
    found = frozenset(part.strip() for part in label.split("|"))
    unknown = sorted(found - known)
    if unknown:
        raise UserError(
            f"{where}: label {shown(unknown[0])} is not known; use {KEEP}, or reasons separated by |: {', '.join(sorted(known))}"
        )
    return found


def _quality(filtered: Sequence[bool], wanted: Sequence[bool]) -> Quality:
    pairs = list(zip(filtered, wanted, strict=True))
    return Quality(sum(f and w for f, w in pairs), sum(f and not w for f, w in pairs), sum(w and not f for f, w in pairs))


def _propose(clips: Sequence[ClipRow], wanted: Sequence[bool], rule: Rule, side: str) -> tuple[float | None, Quality | None]:
    """The limit with the best F1; among equals the one that rejects least. Between two scores it lies in their middle."""
    chosen = [(row, want) for row, want in zip(clips, wanted, strict=True) if getattr(row, rule.score) is not None]
    if not any(want for _, want in chosen):
        return None, None
    sign = 1 if side == "minimum" else -1
    values = sign * values_of([row for row, _ in chosen], rule.score)
    order = np.argsort(values, kind="stable")
    values, want = values[order], np.array([w for _, w in chosen])[order]
    hits, rejected = np.cumsum(want), np.arange(1, len(values) + 1)
    ends = np.flatnonzero(np.diff(values, append=np.inf) > 0)
    f1 = 2 * hits[ends] / (rejected[ends] + want.sum())
    last = int(ends[int(f1.argmax())])
    upper = values[last + 1] if last + 1 < len(values) else values[last] + max(abs(values[last]), 1.0) * 0.01
    limit = _short(sign * values[last], sign * upper)
    then = Quality(int(hits[last]), int(last + 1 - hits[last]), int(want.sum() - hits[last]))
    return limit, then


def _short(rejected: float, kept: float) -> float:
    """The number with the fewest digits that parts two scores, near their middle."""
    middle, low, high = (rejected + kept) / 2, min(rejected, kept), max(rejected, kept)
    for digits in range(1, 17):
        short = float(f"{middle:.{digits}g}")
        if low < short < high:
            return short
    return middle
