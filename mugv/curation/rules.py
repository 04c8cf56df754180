"""The recipe's filters: the one table from a score to the reasons that it gives, and a clip's verdict under a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from mugv.curation.rows import ClipRow
from mugv.recipe.curation import Curation, Range


@dataclass(frozen=True)
class Rule:
    """A filter: the score's name (column of ClipRow and key of the recipe) and its reasons."""

    score: str
    low: str
    """Reason of a clip whose score is under the minimum."""
    high: str
    """Reason of a clip whose score is over the maximum."""


RULES: tuple[Rule, ...] = (
    Rule("source_seconds", "short_source", "long_source"),
    Rule("source_fps", "low_frame_rate", "high_frame_rate"),
    Rule("bits_per_pixel", "low_bit_rate", "high_bit_rate"),
    Rule("exposure", "too_dark", "too_bright"),
    Rule("contrast", "flat", "too_contrasty"),
    Rule("motion", "static", "too_fast"),
    Rule("freeze", "no_still", "frozen"),
    Rule("sharpness", "blurred", "too_sharp"),
    Rule("border", "no_border", "border"),
    Rule("aspect", "too_tall", "too_wide"),
    Rule("text", "no_text", "text"),
    Rule("shake", "too_steady", "shaky"),
    Rule("speed_change", "steady_speed", "speed_change"),
    Rule("blockiness", "too_smooth", "blocky"),
    Rule("saturation", "grey", "garish"),
    Rule("aesthetic", "plain", "too_pretty"),
)
"""In the order in which the first that fails gives a clip's reason: source, light, movement, detail, what lies over the picture."""

NO_CAPTION = "no_caption"


def limits(rule: Rule, settings: Curation) -> Range:
    """The recipe's thresholds of a rule."""
    found: Range = getattr(settings, rule.score)
    return found


def verdict(row: ClipRow, settings: Curation) -> tuple[str, str]:
    """Reason and detail of the first rule that fails; both empty when none does. A score that is not measured rejects nothing."""
    for rule in RULES:
        reason, detail = _judge(row, rule, settings)
        if reason:
            return reason, detail
    if _lacks_caption(row, settings):
        return NO_CAPTION, "no caption covers half of the clip"
    return "", ""


def failures(row: ClipRow, settings: Curation) -> list[str]:
    """The reasons of all rules that fail, in the rules' order."""
    found = [reason for rule in RULES if (reason := _judge(row, rule, settings)[0])]
    return [*found, NO_CAPTION] if _lacks_caption(row, settings) else found


def _judge(row: ClipRow, rule: Rule, settings: Curation) -> tuple[str, str]:
    value: float | None = getattr(row, rule.score)
    if value is None:
        return "", ""
    limit = limits(rule, settings)
    if limit.minimum is not None and value < limit.minimum:
        return rule.low, f"{rule.score} {value:g} < {limit.minimum:g}"
    if limit.maximum is not None and value > limit.maximum:
        return rule.high, f"{rule.score} {value:g} > {limit.maximum:g}"
    return "", ""


def _lacks_caption(row: ClipRow, settings: Curation) -> bool:
    """A model's captions come after the verdict, so that no clip is captioned that goes anyway."""
    return settings.require_caption and settings.caption.kind == "sidecar" and not row.caption
