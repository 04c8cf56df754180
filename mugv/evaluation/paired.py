"""Two models compared on the same prompts: what each made of every prompt, and a paired test of the difference.

results.json   {group: {"conditions": {name: text}, "prompts": [...], "values": {row: [number a clip]}}}

A metric is named <group>_<row>: `t2v_seen_all` is the row `all` of the group `t2v_seen`. A prompt is a caption, or a clip's name where
a clip is given; one that was asked for with several seeds counts once, by the mean of its clips, since clips of one prompt are no
independent draws.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "results.json"
LOWER_IS_BETTER = frozenset({"validation_flow_loss"})
RESAMPLES = 9999
"""Drawn sign flips of the test where there are too many to try all: p is then known to about 0.002."""


class NotComparableError(ValueError):
    """Why two models' results cannot be set against each other."""


@dataclass(frozen=True)
class Group:
    """Results of one kind of clip. `conditions`: what must be equal for two models' numbers to mean the same."""

    conditions: dict[str, str]
    prompts: list[str]
    values: dict[str, list[float]]


Results = Mapping[str, Group]


@dataclass(frozen=True)
class Comparison:
    """A challenger against the champion on one metric. `p_better`: chance of so large a lead, or a larger one, of equal models."""

    metric: str
    prompts: int
    wins: int
    losses: int
    mine: float
    theirs: float
    p_better: float
    p_worse: float

    def __str__(self) -> str:
        counts = f"{self.wins} of {self.prompts} common prompts better, {self.losses} worse"
        return f"{self.metric} {self.mine:.4g} against {self.theirs:.4g}: {counts}"


def to_json(results: Results) -> str:
    return json.dumps({name: asdict(group) for name, group in results.items()}) + "\n"


def read_results(path: Path) -> dict[str, Group]:
    """What an evaluation kept; {} where it kept nothing by prompt."""
    return {name: Group(**group) for name, group in json.loads(path.read_text()).items()} if path.is_file() else {}


def compare(metric: str, mine: Results, theirs: Results) -> Comparison:
    """Paired permutation test (signs of the prompts' differences) of the mean difference; of yes-no scores it is McNemar's exact test.

    Raises NotComparableError when one side has no results by prompt, they were measured otherwise, or no prompt is common.
    """
    (own, own_values), (other, other_values) = (_row(results, metric, who) for results, who in ((mine, "this"), (theirs, "the champion's")))
    changed = sorted(name for name in {*own.conditions, *other.conditions} if own.conditions.get(name) != other.conditions.get(name))
    if changed:
        raise NotComparableError(f"it was measured with another {' and another '.join(changed)}")
    first, second = _by_prompt(own.prompts, own_values), _by_prompt(other.prompts, other_values)
    common = sorted(first.keys() & second.keys())
    if not common:
        raise NotComparableError("no prompt is common to both evaluations")
    sign = -1 if metric in LOWER_IS_BETTER else 1
    # Rounded, so that means of the same clips in another order are ties.
    gains = [round(sign * (first[prompt] - second[prompt]), 12) for prompt in common]
    return Comparison(
        metric=metric,
        prompts=len(common),
        wins=sum(gain > 0 for gain in gains),
        losses=sum(gain < 0 for gain in gains),
        mine=_mean([first[prompt] for prompt in common]),
        theirs=_mean([second[prompt] for prompt in common]),
        p_better=_sign_flips(gains),
        p_worse=_sign_flips([-gain for gain in gains]),
    )


def _row(results: Results, metric: str, whose: str) -> tuple[Group, list[float]]:
    for name, group in results.items():
        values = group.values.get(metric.removeprefix(f"{name}_"))
        if metric.startswith(f"{name}_") and values is not None:
            return group, values
    raise NotComparableError(f"{whose} evaluation kept no {metric} by prompt")


def _by_prompt(prompts: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for prompt, value in zip(prompts, values, strict=True):
        found[prompt].append(value)
    return {prompt: _mean(each) for prompt, each in found.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _sign_flips(gains: Sequence[float]) -> float:
    """One-sided p of the mean gain: over all signs of up to 13 differences that are not 0, over RESAMPLES drawn ones of more."""
    import numpy as np
    from scipy.stats import permutation_test

    different = np.asarray([gain for gain in gains if gain])
    if not len(different):
        return 1.0
    # Scipy asks for two observations; a 0 keeps its value under every sign.
    different = np.append(different, 0.0) if len(different) == 1 else different
    found = permutation_test(
        (different,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, alternative="greater", rng=0
    )
    return float(found.pvalue)
