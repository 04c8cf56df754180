"""From verdicts to the numbers of a column of the judge's table, each with its 95% interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mugv.evaluation.judge import Verdict
from mugv.media.shapes import COLOURS, DIRECTIONS, SHAPES, Combination

ATTRIBUTES = ("colour", "shape", "direction")
ROWS = {"colour": "colour", "shape": "shape", "direction": "direction", "all": "all three", "steady": "steady"}
"""Rows of the judge's table and their names there. `all`: the three attributes at once; `steady`: colour and shape in every frame."""
CHANCE = {"colour": 1 / len(COLOURS), "shape": 1 / len(SHAPES), "direction": 1 / len(DIRECTIONS)}
CHANCE["all"] = CHANCE["colour"] * CHANCE["shape"] * CHANCE["direction"]
CHANCE["steady"] = CHANCE["colour"] * CHANCE["shape"]


@dataclass(frozen=True)
class Rate:
    """A share `correct / n` with its Wilson 95% interval. `abstained`: how often the judge was not sure (counted as wrong)."""

    correct: int
    n: int
    value: float
    low: float
    high: float
    abstained: int = 0

    @staticmethod
    def of(correct: int, n: int, abstained: int = 0) -> Rate:
        low, high = wilson(correct, n)
        return Rate(correct, n, correct / n if n else 0.0, low, high, abstained)


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) when n is 0. Source: Wilson 1927."""
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Score:
    """A column of the table: a rate for each of ROWS."""

    n: int
    colour: Rate
    shape: Rate
    direction: Rate
    all: Rate
    steady: Rate

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(tree: dict[str, Any]) -> Score:
        return Score(n=tree["n"], **{name: Rate(**tree[name]) for name in ROWS})


def score_clips(verdicts: Sequence[Verdict], combinations: Sequence[Combination]) -> dict[str, list[float]]:
    """Row of the table -> 1 or 0 of each clip."""
    matches = [v.matches(c) for v, c in zip(verdicts, combinations, strict=True)]
    found = {name: [float(m[name]) for m in matches] for name in (*ATTRIBUTES, "steady")}
    return found | {"all": [float(all(m[name] for name in ATTRIBUTES)) for m in matches]}


def score_table(verdicts: Sequence[Verdict], combinations: Sequence[Combination]) -> Score:
    """Verdict i is judged against combination i. Raises ValueError when their numbers differ."""
    if len(verdicts) != len(combinations):
        raise ValueError(f"{len(verdicts)} verdicts for {len(combinations)} combinations")
    matches = [v.matches(c) for v, c in zip(verdicts, combinations, strict=True)]
    n = len(matches)
    unsure = {name: sum(getattr(v, name) is None for v in verdicts) for name in (*ATTRIBUTES, "steady")}
    rates = {name: Rate.of(sum(m[name] for m in matches), n, unsure[name]) for name in (*ATTRIBUTES, "steady")}
    any_unsure = sum(any(getattr(v, name) is None for name in ATTRIBUTES) for v in verdicts)
    return Score(n=n, **rates, all=Rate.of(sum(all(m[name] for name in ATTRIBUTES) for m in matches), n, any_unsure))
