"""Merging shards: the composite score over the ranks there are, balance before the split, score-only, captions of a model."""

from dataclasses import replace

import pytest

from mugv.curation.merge import merge, ranked, with_scores
from mugv.curation.report.card import make_card
from mugv.curation.rows import ClipRow
from mugv.recipe.curation import Curation

SETTINGS = Curation(require_caption=False)


def row(number: int, **values) -> ClipRow:
    base = {"status": "kept", "frames": 17, "fps": 12.0, "sharpness": 10.0 + number, "motion": 2.0, "start_seconds": 60.0 * number}
    return ClipRow(f"c{number:02d}", f"{number}.mp4", f"d{number}", **{**base, **values})


def test_a_rank_counts_only_where_every_kept_clip_has_the_score():
    rows = [row(0, aesthetic=9.0), row(1, aesthetic=5.0), row(2, aesthetic=7.0)]
    assert [r.score for r in with_scores(rows)] == [
        pytest.approx((0 + 0.5 + 1) / 3, abs=1e-6),
        pytest.approx(1 / 3, abs=1e-6),
        pytest.approx(2 / 3, abs=1e-6),
    ]
    partly = [*rows[:2], replace(rows[2], aesthetic=None)]
    assert set(ranked(partly)) == {"sharpness", "motion"}
    assert [r.score for r in with_scores(partly)] == [0.25, 0.5, 0.75]
    assert "mean of 3 ranks" in make_card(rows, {}, "clip", SETTINGS)["score"]


def test_rejected_clips_have_no_score_and_do_not_shift_those_of_others():
    rows = [row(0), row(1), row(2, status="rejected", reason="blurred", sharpness=1000.0, motion=99.0)]
    assert [r.score for r in with_scores(rows)] == [0.25, 0.75, 0.0]


def test_balance_comes_before_the_split_and_scores_are_of_what_is_left():
    rows = [row(k, tags=("subject:dog",) if k < 4 else ()) for k in range(20)]
    settings = SETTINGS.model_copy(update={"balance": Curation(balance={"shares": {"subject:dog": 0.5}}).balance})
    done, _ = merge(rows, settings, 0)
    kept = [r for r in done if r.status == "kept"]
    assert len(kept) == 8
    assert {r.split for r in kept} == {"train", "validation"}
    assert (min(r.score for r in kept), max(r.score for r in kept)) == (0.25, 0.75)
    assert all(r.split == "" and r.score == 0 for r in done if r.reason == "balance")


def test_score_only_ends_well_though_nothing_is_kept():
    rows = [row(0, status="scored"), row(1, status="scored", reason="static")]
    assert merge(rows, SETTINGS.model_copy(update={"score_only": True}), 0) == (rows, "")


def test_the_order_of_the_parts_changes_nothing():
    rows = [row(k, tags=("subject:dog",) if k % 3 else ()) for k in range(12)]
    assert merge(rows, SETTINGS, 0) == merge(rows[::-1], SETTINGS, 0)
