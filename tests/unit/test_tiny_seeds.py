"""The benchmark over seeds must not call a result good that is not, nor keep one of other code."""

from __future__ import annotations

import json

import pytest

from benchmarks import tiny_seeds
from mugv.evaluation.scores import ROWS
from mugv.recipe.schema import Gate

GATE = Gate(minimum={"t2v_seen_colour": 0.95})


def result(colour: float = 1.0, all_: float = 0.95, key: str = "k") -> dict:
    columns = ("t2v_seen", "t2v_held_out", "i2v")
    rates = {column: {name: {"value": all_ if name != "colour" else colour} for name in ROWS} | {"n": 144} for column in columns}
    metrics = {f"{column}_{name}": rates[column][name]["value"] for column in columns for name in ROWS}
    return {"run": "a run", "key": key, "seconds": 1.0, "metrics": metrics, "table": rates}


def missed(found: list[dict]) -> list[str]:
    return [text for good, text in tiny_seeds.bars(found, GATE) if not good]


def test_good_runs_hold_every_bar():
    assert missed([result(), result()]) == []


def test_a_worst_run_within_a_standard_error_of_its_threshold_is_missed():
    (text,) = missed([result(), result(colour=0.955)])
    assert text.startswith("t2v_seen_colour: worst 0.955")


def test_a_run_that_fails_the_gate_is_missed_twice():
    assert [text.split(":")[0] for text in missed([result(), result(colour=0.9)])] == ["gate, a run", "t2v_seen_colour"]


def test_one_bad_run_is_not_hidden_by_the_mean():
    names = [text.split(":")[0] for text in missed([*[result(all_=1.0)] * 3, result(all_=0.7)])]
    assert names == ["t2v_seen_all", "i2v_all"]


@pytest.mark.parametrize(("share", "error"), [(1.0, 0.0068), (0.5, 0.0414), (0.95, 0.0191)])
def test_standard_errors(share, error):
    assert tiny_seeds.standard_error(share, 144) == pytest.approx(error, abs=2e-4)


def test_results_of_other_code_do_not_count(tmp_path, monkeypatch):
    first = tiny_seeds.RUNS[0]
    (tmp_path / first.file).write_text(json.dumps(result(key="of old code")))
    assert tiny_seeds.results(tmp_path) == []
    good = result(key=first.key)
    good["metrics"] |= {"real_colour": 1.0, "vae_reconstruction_shape": 1.0}
    (tmp_path / first.file).write_text(json.dumps(good))
    assert len(tiny_seeds.results(tmp_path)) == 1
    assert tiny_seeds.report(tmp_path) == 1  # three runs are missing


def test_the_runs_are_two_seeds_of_footage_with_two_of_training_and_one_is_on_an_older_processor():
    pairs = {(item.footage, item.training) for item in tiny_seeds.RUNS}
    assert len(pairs) == 4
    assert [len({p[k] for p in pairs}) for k in (0, 1)] == [2, 2]
    assert [item.older for item in tiny_seeds.RUNS].count(True) == 1
    assert len({item.key for item in tiny_seeds.RUNS}) == 4


def test_the_table_shows_mean_and_range(tmp_path):
    text = tiny_seeds.table([result(all_=0.8), result(all_=1.0)])
    assert "| all three | **0.90** (0.80 to 1.00) |" in text
    assert "| steady |" in text
