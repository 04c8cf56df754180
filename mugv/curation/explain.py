"""What each threshold of a recipe does to a clip set: how many clips it rejects, how many it alone, and the score's quantiles.

Computed from the manifest's scores, so any thresholds can be tried in an instant, also on a set that was curated with others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mugv.curation.rows import ClipRow
from mugv.curation.rules import NO_CAPTION, RULES, Rule, failures, limits
from mugv.recipe.schema import Curation

QUANTILES = (1, 5, 25, 50, 75, 95, 99)
"""Per cent."""
AFTER_RULES = frozenset({"duplicate", "balance", "bad_caption", NO_CAPTION})
"""Reasons that a clip gets after it has passed every threshold."""


@dataclass(frozen=True)
class Explained:
    """One score under a recipe."""

    score: str
    minimum: float | None
    maximum: float | None
    low: str
    """Reason of a clip under the minimum."""
    high: str
    measured: int
    """Clips that have the score."""
    rejects: tuple[int, int]
    """Clips under the minimum, over the maximum."""
    alone: int
    """Clips that no other rule rejects: they would be kept without this one."""
    quantiles: tuple[float, ...]
    """At QUANTILES; empty when nothing was measured."""


def explain(rows: Sequence[ClipRow], settings: Curation) -> list[Explained]:
    """A line a score that was measured or has a limit, in the rules' order."""
    clips = judged(rows)
    failed = [failures(row, settings) for row in clips]
    every = Counter(reason for reasons in failed for reason in reasons)
    alone = Counter(reasons[0] for reasons in failed if len(reasons) == 1)
    found = [_explained(rule, clips, settings, every, alone) for rule in RULES]
    return [line for line in found if line.measured or line.minimum is not None or line.maximum is not None]


def judged(rows: Sequence[ClipRow]) -> list[ClipRow]:
    """The rows that thresholds decide about: with scores, and not rejected before any score counted (a transition, a damaged file)."""
    by_rules = {reason for rule in RULES for reason in (rule.low, rule.high)} | AFTER_RULES | {""}
    return [row for row in rows if row.reason in by_rules and any(getattr(row, rule.score) is not None for rule in RULES)]


def would_keep(rows: Sequence[ClipRow], settings: Curation) -> int:
    """Clips that no threshold rejects; duplicates and balance come after."""
    return sum(not failures(row, settings) for row in judged(rows))


def other_reasons(rows: Sequence[ClipRow]) -> dict[str, int]:
    """Rejected or marked rows whose reason is no threshold's, the most frequent first."""
    by_rules = {reason for rule in RULES for reason in (rule.low, rule.high)} | {""}
    counts = Counter(row.reason for row in rows if row.reason not in by_rules)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def values_of(rows: Sequence[ClipRow], score: str) -> np.ndarray:
    """float64 [N], of the rows that have the score."""
    return np.array([value for row in rows if (value := getattr(row, score)) is not None], float)


def _explained(rule: Rule, clips: Sequence[ClipRow], settings: Curation, every: Counter[str], alone: Counter[str]) -> Explained:
    limit, values = limits(rule, settings), values_of(clips, rule.score)
    quantiles = tuple(np.percentile(values, QUANTILES).tolist()) if len(values) else ()
    rejects, only = (every[rule.low], every[rule.high]), alone[rule.low] + alone[rule.high]
    return Explained(rule.score, limit.minimum, limit.maximum, rule.low, rule.high, len(values), rejects, only, quantiles)
