"""A clip set against another: what is found, what is chance, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from mugv.curation.drift.compare import Comparison, compare, compare_sources
from mugv.curation.drift.page import render
from mugv.curation.drift.statistics import Sample, Term, compare_categories, compare_numbers, compare_terms, effective_rows, psi
from mugv.errors import UserError
from mugv.recipe import load_recipe
from mugv.recipe.retrain import CATEGORIES, NUMBERS, TERMS, Drift
from tests.unit.drift_tools import clip_set, clips

DRIFT = Drift()


def compared(folder: Path, old: Sequence[Any], new: Sequence[Any], settings: Drift = DRIFT, **odd: Any) -> Comparison:
    first = clip_set(folder / "old", list(old), odd.get("old_lacks", ()))
    return compare(first, clip_set(folder / "new", list(new), odd.get("new_lacks", ())), "m version 1", settings)


def column(found: Comparison, name: str) -> Any:
    return next(c for c in found.columns if c.name == name)


def test_psi_is_the_published_formula() -> None:
    """Shares 0.5, 0.3, 0.2 against 0.4, 0.3, 0.3, by hand."""
    by_hand = -0.1 * np.log(0.8) + 0.1 * np.log(1.5)
    assert psi(np.array([5e7, 3e7, 2e7]), np.array([4e7, 3e7, 3e7])) == pytest.approx(by_hand, rel=1e-5)


def test_a_shift_by_half_a_deviation_has_the_psi_and_ks_of_theory() -> None:
    """Of normal distributions: PSI 0.25 before binning, KS 2 Phi(0.25) - 1."""
    random = np.random.default_rng(0)
    sides = [Sample(random.normal(mean, size=200_000), np.arange(200_000)) for mean in (0, 0.5)]
    found = compare_numbers(*sides, 0.01)
    assert 0.22 < found.psi < 0.25
    assert found.ks == pytest.approx(0.1974, abs=0.004)


def test_the_same_data_are_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, clips(0), clips(0))
    assert found.same
    assert not found.drifted
    assert found.sources.counts["unchanged"] == found.sources.new == 400
    assert max(c.distance.psi for c in found.columns if c.distance) == 0


def test_added_sources_are_named(tmp_path: Path) -> None:
    rows = clips(0)
    found = compared(tmp_path, rows, [*rows, *clips(1, 2, prefix="extra")])
    assert found.sources.added == ["extra000000.mp4", "extra000001.mp4"]
    assert found.sources.removed == []
    assert not found.same
    assert not found.drifted, "two clips more are no drift"


def test_renamed_and_changed_sources_are_not_added_ones() -> None:
    old = {"a": "1", "b": "2", "c": "3", "d": "4"}
    found = compare_sources(old, {"a": "1", "B": "2", "c": "9", "e": "5"})
    assert found.counts == {"added": 1, "removed": 1, "changed": 1, "renamed": 1, "recaptioned": 0, "unchanged": 1}
    assert (found.added, found.removed, found.changed) == (["e"], ["d"], ["c"])
    copies = compare_sources({"a": "1"}, {"b": "1", "c": "1"})
    assert copies.counts["renamed"] == 1
    assert copies.added == ["c"], "a second copy is one more source"


def test_a_shifted_brightness_comes_first(tmp_path: Path) -> None:
    brighter = clips(1, change=lambda row, _: {**row, "exposure": row["exposure"] + 20, "motion": row["motion"] * 1.1})
    for settings in (DRIFT, Drift(score="ks")):
        found = compared(tmp_path / settings.score, clips(0), brighter, settings)
        assert [c.name for c in found.drifted] == ["exposure"]
        assert found.columns[0].name == "exposure"
        assert found.columns[0].distance.p < 1e-6


def test_other_words_tags_and_reasons_are_found(tmp_path: Path) -> None:
    def cats(row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        if random.random() < 0.5:
            return row
        return {**row, "caption": "a tabby cat sleeps soundly", "tags": ("subject:cat",)}

    found = compared(tmp_path, clips(0), clips(1, change=cats))
    assert {"tags", "words"} == {c.name for c in found.drifted}
    assert column(found, "tags").detail.startswith("subject:cat 0 % -> ")
    assert {"tabby", "cat", "sleeps", "soundly"} == {word for word, _ in found.new_words}
    still = compared(
        tmp_path / "b", clips(0), clips(1, change=lambda row, r: {**row, "status": "kept" if r.random() < 0.2 else "rejected"})
    )
    assert [c.name for c in still.drifted] == []
    loud = compared(
        tmp_path / "c", clips(0, 2000), clips(1, 2000, change=lambda row, r: {**row, "status": ("kept", "rejected")[r.random() < 0.7]})
    )
    assert [c.name for c in loud.drifted] == ["rejected"]


@pytest.mark.parametrize(("per_source", "alike"), [(1, 0.0), (20, 0.5)])
def test_chance_alone_raises_no_alarm_more_often_than_it_may(per_source: int, alike: float) -> None:
    """200 seeds, no limit but chance: small samples, and clips that come in sources of 20 that are alike. Taken for independent, those
    would raise the alarm in every second comparison."""
    significance, alarms, naive = 0.05, {"psi": 0, "ks": 0}, 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        sides = []
        for rows in (400, 600):
            sources = np.arange(rows) // per_source
            common = random.normal(size=rows)[sources]
            sides.append(Sample(np.sqrt(alike) * common + np.sqrt(1 - alike) * random.normal(size=rows), sources))
        found = compare_numbers(*sides, significance)
        alarms["psi"] += found.psi > found.psi_bound
        alarms["ks"] += found.ks > found.ks_bound
        alone = compare_numbers(*(Sample(s.values, np.arange(len(s.values))) for s in sides), significance)
        naive += alone.psi > alone.psi_bound
    most = binom.ppf(0.999, 200, significance)
    assert max(alarms.values()) <= most, alarms
    assert per_source == 1 or naive > 60, "else the test means nothing"


def test_chance_alone_raises_no_alarm_over_all_columns_together(tmp_path: Path) -> None:
    """Whole manifests with limits next to nothing."""
    settings = Drift(limit=1e-6, significance=0.05)
    pairs = [(clips(2 * k, 250, per_source=5, alike=0.3), clips(2 * k + 1, 250, per_source=5, alike=0.3)) for k in range(12)]
    alarms = [[c.name for c in compared(tmp_path / str(k), *pair, settings).drifted] for k, pair in enumerate(pairs)]
    assert sum(map(bool, alarms)) <= binom.ppf(0.999, 12, 0.05), alarms


def test_terms_and_categories_raise_no_alarm_by_chance() -> None:
    alarms = np.zeros(3)
    for seed in range(200):
        random = np.random.default_rng(seed)
        shares = np.array([0.6, 0.25, 0.1, 0.04, 0.01])
        counts = [random.multinomial(n, shares) for n in (300, 500)]
        terms = [Term(str(k), int(a), int(b)) for k, (a, b) in enumerate(zip(*counts, strict=True))]
        several = compare_terms(terms, (300, 500), (300.0, 500.0), 0.05)[0]
        one = compare_categories(terms, (300.0, 500.0), 0.05)
        alarms += [several.psi > several.psi_bound, several.ks > several.ks_bound, one.psi > one.psi_bound]
    assert alarms.max() <= binom.ppf(0.999, 200, 0.05), alarms


def test_psi_without_drift_is_told_to_be_what_it_is() -> None:
    """Its mean over 200 seeds is (bins - 1) (1/n + 1/m)."""
    found = [
        compare_numbers(*(Sample(np.random.default_rng((seed, n)).normal(size=n), np.arange(n)) for n in (300, 500)), 0.01)
        for seed in range(200)
    ]
    assert np.mean([f.psi for f in found]) == pytest.approx(found[0].psi_expected, rel=0.1)
    assert found[0].psi_expected == pytest.approx(9 * (1 / 300 + 1 / 500))


def test_rows_of_one_source_count_for_what_they_tell() -> None:
    sources = np.repeat(np.arange(50), 10)
    random = np.random.default_rng(0)
    assert effective_rows(sources) == pytest.approx(50)
    assert effective_rows(sources, np.repeat(random.normal(size=50), 10)) == pytest.approx(50, rel=0.01)
    assert effective_rows(sources, random.normal(size=500)) > 300
    assert effective_rows(np.zeros(80, int), random.normal(size=80)) == pytest.approx(1)
    assert effective_rows(np.arange(80), random.normal(size=80)) == pytest.approx(80)


def test_a_constant_score_that_moves_either_way_is_found(tmp_path: Path) -> None:
    for k, value in enumerate((0.4, 0.6)):
        old, new = (clips(s, change=lambda row, _, v=v: {**row, "border": v}) for s, v in ((0, 0.5), (1, value)))
        found = compared(tmp_path / str(k), old, new)
        assert [c.name for c in found.drifted] == ["border"]
    still = compared(tmp_path / "c", *(clips(s, change=lambda row, _: {**row, "border": 0.5}) for s in (0, 1)))
    assert column(still, "border").note == "always 0.5"


def test_a_score_that_is_missing_now_and_then_is_compared_by_that_too(tmp_path: Path) -> None:
    def gaps(share: float) -> Any:
        return lambda row, random: {**row, "sharpness": None if random.random() < share else row["sharpness"]}

    found = compared(tmp_path, clips(0, change=gaps(0.05)), clips(1, change=gaps(0.6)))
    assert [c.name for c in found.drifted] == ["sharpness"]
    assert "not measured" in column(found, "sharpness").detail


def test_columns_that_one_side_lacks_are_named_and_hold_nothing(tmp_path: Path) -> None:
    never = clips(0, change=lambda row, _: {**row, "motion": None, "sharpness": float("nan")})
    found = compared(tmp_path, never, clips(1), old_lacks=("exposure", "tags"), new_lacks=("caption",))
    notes = {c.name: c.note for c in found.columns if c.note}
    assert notes["motion"] == notes["sharpness"] == "not compared: the champion's clips have no values"
    assert notes["exposure"] == notes["tags"] == "not compared: the champion's clips lack the column"
    assert notes["words"] == "not compared: the new clips lack the column"
    assert not found.drifted
    assert "not compared" in render(found, "")


def test_few_rows_and_empty_sets_hold_nothing_back(tmp_path: Path) -> None:
    brighter = clips(1, 60, change=lambda row, _: {**row, "exposure": row["exposure"] + 60})
    found = compared(tmp_path, clips(0), brighter)
    assert not found.enough_rows
    assert found.drifted == []
    assert found.columns[0].name == "exposure", "it is written down all the same"
    assert "fewer than 200" in found.notes[0]
    nothing = compared(tmp_path / "b", clips(0), [])
    assert nothing.rows[1] == nothing.candidates[1] == 0
    render(nothing, "")


def test_limits_of_single_columns_count_before_the_common_one(tmp_path: Path) -> None:
    brighter = clips(1, change=lambda row, _: {**row, "exposure": row["exposure"] + 20})
    found = compared(tmp_path, clips(0), brighter, Drift(limits={"exposure": 50.0}))
    assert not found.drifted


def test_a_comparison_s_digest_names_exactly_these_data(tmp_path: Path) -> None:
    one, two = clip_set(tmp_path / "a", clips(0)), clip_set(tmp_path / "b", clips(1))
    digests = [compare(*pair, DRIFT).digest for pair in ((one, two, "m version 1"), (two, one, "m version 1"), (one, two, "m version 2"))]
    assert len(set(digests)) == 3
    assert compare(one, two, "m version 1", DRIFT).digest == digests[0]


def test_what_is_no_manifest_is_one_line(tmp_path: Path) -> None:
    wrong = tmp_path / "manifest.parquet"
    wrong.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not the manifest of a clip set"):
        compare(wrong, wrong, "", DRIFT)
    with pytest.raises(UserError, match="cannot be read"):
        compare(tmp_path / "absent", wrong, "", DRIFT)


def test_names_and_words_cannot_write_into_the_page(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>"
    rows = clips(1, prefix=nasty, change=lambda row, _: {**row, "tags": (nasty,), "caption": nasty})
    page = render(compared(tmp_path, clips(0), rows), nasty)
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page


def test_every_column_of_the_recipe_is_compared(tmp_path: Path) -> None:
    """So that no limit can be set for a column that nothing looks at."""
    import dataclasses

    rows = [
        dataclasses.replace(row, **{name: 1.0 for name in NUMBERS if hasattr(row, name) and getattr(row, name) is None}) for row in clips(0)
    ]
    rows = [dataclasses.replace(row, licence="CC0", transfer="bt709", field_order="progressive", caption_source="sidecar") for row in rows]
    found = compared(tmp_path, rows, rows)
    assert {c.name for c in found.columns} == {*NUMBERS, *CATEGORIES, *TERMS}


def test_a_limit_for_no_column_is_refused() -> None:
    recipe = Path(__file__).resolve().parents[2] / "configs" / "tiny.yaml"
    with pytest.raises(UserError, match=r"retrain\.drift\.limits"):
        load_recipe(recipe, ["retrain.drift.limits.brightness=0.1"])
    assert load_recipe(recipe, ["retrain.drift.limits.exposure=0.1"]).retrain.drift.limits == {"exposure": 0.1}
