"""The table of rules: one reason for each limit, the first that fails, and none for what was not measured."""

from dataclasses import fields

import pytest

from mugv.curation.rows import ClipRow
from mugv.curation.rules import NO_CAPTION, RULES, failures, limits, verdict
from mugv.recipe.curation import Curation, Range

OPEN = {rule.score: {"minimum": None, "maximum": None} for rule in RULES}


def row(**values) -> ClipRow:
    return ClipRow("a", "a.mp4", "d", caption="a dog runs", **values)


def test_every_range_of_the_recipe_has_a_rule_and_a_column():
    ranges = {name for name, field in Curation.model_fields.items() if isinstance(field.default, Range)}
    assert ranges == {rule.score for rule in RULES}
    assert ranges <= {f.name for f in fields(ClipRow)}
    reasons = [reason for rule in RULES for reason in (rule.low, rule.high)]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.score)
def test_each_limit_gives_its_own_reason_and_its_detail_says_the_numbers(rule):
    settings = Curation(**{**OPEN, rule.score: {"minimum": 0.2, "maximum": 0.4}})
    assert verdict(row(**{rule.score: 0.15}), settings) == (rule.low, f"{rule.score} 0.15 < 0.2")
    assert verdict(row(**{rule.score: 0.45}), settings) == (rule.high, f"{rule.score} 0.45 > 0.4")
    assert verdict(row(**{rule.score: 0.4}), settings) == ("", "")
    assert verdict(row(), settings) == ("", "")
    assert limits(rule, settings).maximum == 0.4


def test_the_first_rule_gives_the_reason_and_all_are_listed():
    settings = Curation(**{**OPEN, "motion": {"minimum": 1}, "sharpness": {"minimum": 10}, "text": {"maximum": 0.01}})
    bad = row(motion=0.0, sharpness=1.0, text=0.2)
    assert verdict(bad, settings)[0] == "static"
    assert failures(bad, settings) == ["static", "blurred", "text"]


def test_a_caption_is_asked_for_only_where_no_model_gives_one():
    bare = ClipRow("a", "a.mp4", "d")
    assert verdict(bare, Curation())[0] == NO_CAPTION
    assert failures(bare, Curation()) == [NO_CAPTION]
    assert verdict(bare, Curation(require_caption=False)) == ("", "")
    model = Curation(caption={"kind": "endpoint", "url": "http://localhost:1/v1", "model": "m"})
    assert verdict(bare, model) == ("", "")
