"""What the recipe makes of a comparison: train, wait for somebody who confirms exactly these data, or stop; in one line."""

from __future__ import annotations

from dataclasses import dataclass

from mugv.curation.drift.compare import Column, Comparison
from mugv.figures import number
from mugv.recipe.retrain import Asked, Drift

COLUMNS_TOLD = 4


@dataclass(frozen=True)
class Verdict:
    """`waits`: `mugv confirm` lets the next retraining go on."""

    go_on: bool
    waits: bool
    line: str


def judge(comparison: Comparison, settings: Drift, confirmed: str = "") -> Verdict:
    """`confirmed`: who confirmed this comparison and when; "": nobody."""
    if comparison.same:
        return Verdict(True, False, f"the clips are those of {comparison.champion}")
    if not comparison.drifted:
        return Verdict(True, False, f"no drift against {comparison.champion}: {comparison.sources.line}{_furthest(comparison)}")
    told = ", ".join(_told(column, comparison.score) for column in comparison.drifted[:COLUMNS_TOLD])
    more = len(comparison.drifted) - COLUMNS_TOLD
    line = f"drift against {comparison.champion}: {told}{f' and {more} more' if more > 0 else ''}; {comparison.sources.line}"
    return asked(settings.on_drift, "on_drift", line, comparison.digest, confirmed)


def asked(choice: Asked, key: str, line: str, digest: str, confirmed: str = "") -> Verdict:
    """The recipe's choice about something that somebody should know. `key`: of retrain.drift."""
    if choice == "warn":
        return Verdict(True, False, f"{line}; training goes on (retrain.drift.{key}: warn)")
    if choice == "stop":
        return Verdict(False, False, f"{line}; nothing is trained (retrain.drift.{key}: stop)")
    if confirmed:
        return Verdict(True, False, f"{line}; confirmed {confirmed}")
    return Verdict(False, True, f"{line}; nothing is trained before `mugv confirm {digest}`, for exactly these data; run again after it")


def _told(column: Column, score: str) -> str:
    detail = f", {column.detail}" if column.detail else ""
    return f"{column.name} {score.upper()} {number(column.measure(score))} over {number(column.limit)}{detail}"


def _furthest(comparison: Comparison) -> str:
    found = next((c for c in comparison.columns if c.distance), None)
    if found is None:
        return ""
    score = comparison.score
    return f"; furthest: {found.name}, {score.upper()} {number(found.measure(score))} of {number(found.limit)}"
