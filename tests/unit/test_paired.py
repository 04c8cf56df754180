"""Two equal models must not replace each other by luck, and a better one must not be held back by another measure or by order."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from mugv.evaluation.paired import FILE, Group, NotComparableError, compare, read_results, to_json

PROMPTS = [f"prompt {k}" for k in range(48)]


def judged(right: list[float], prompts: list[str] = PROMPTS, **conditions: str) -> dict[str, Group]:
    return {"t2v_seen": Group({"judge": "a", **conditions}, prompts, {"all": right})}


def losses(values: np.ndarray) -> dict[str, Group]:
    return {"validation": Group({}, [f"clip{k}" for k in range(len(values))], {"flow_loss": values.tolist()})}


def binomial_tail(wins: int, n: int) -> float:
    return sum(comb(n, k) for k in range(wins, n + 1)) / 2**n


@pytest.mark.parametrize(("wins", "lost"), [(0, 0), (1, 0), (0, 1), (5, 0), (8, 2), (9, 9), (2, 8), (20, 8)])
def test_of_yes_and_no_it_is_mcnemar_s_exact_test(wins: int, lost: int) -> None:
    theirs = [0.0] * wins + [1.0] * lost + [1.0] * (48 - wins - lost)
    mine = [1.0] * wins + [0.0] * lost + [1.0] * (48 - wins - lost)
    found = compare("t2v_seen_all", judged(mine), judged(theirs))
    assert (found.prompts, found.wins, found.losses) == (48, wins, lost)
    assert found.p_better == pytest.approx(binomial_tail(wins, wins + lost), abs=0.012)
    assert found.p_worse == pytest.approx(binomial_tail(lost, wins + lost), abs=0.012)


def test_an_equal_model_is_taken_for_better_no_more_often_than_the_level_says() -> None:
    """Clips of one prompt go together: counted one by one they would make luck look like proof."""
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        mine, theirs = ([float(rng.random() < share) for share in rng.beta(1, 1, 48) for _ in range(3)] for _ in range(2))
        repeated = [prompt for prompt in PROMPTS for _ in range(3)]
        found.append(compare("t2v_seen_all", judged(mine, repeated), judged(theirs, repeated)).p_better)
    assert np.mean(np.asarray(found) < 0.05) <= 0.15


def test_a_lower_loss_is_better() -> None:
    before = np.random.default_rng(0).uniform(0.5, 1.5, 64)
    found = compare("validation_flow_loss", losses(before - 0.01), losses(before))
    assert (found.wins, found.losses) == (64, 0)
    assert found.p_better < 0.001 < 0.99 < found.p_worse
    assert "64 of 64 common prompts better, 0 worse" in str(found)


def test_the_order_of_prompts_and_of_their_clips_plays_no_part() -> None:
    rng = np.random.default_rng(1)
    values, prompts = list(rng.random(30)), [f"p{k % 10}" for k in range(30)]
    order = rng.permutation(30)
    mixed = judged([values[k] for k in order], [prompts[k] for k in order])
    found = compare("t2v_seen_all", judged(values, prompts), mixed)
    assert (found.prompts, found.wins, found.losses, found.p_better, found.p_worse) == (10, 0, 0, 1.0, 1.0)


def test_only_common_prompts_are_compared() -> None:
    found = compare("t2v_seen_all", judged([1.0] * 48), judged([0.0] * 20 + [1.0] * 20, PROMPTS[:20] + [f"other {k}" for k in range(20)]))
    assert (found.prompts, found.wins, found.mine, found.theirs) == (20, 20, 1.0, 0.0)


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (judged([1.0] * 48, [f"other {k}" for k in range(48)]), "no prompt is common"),
        (judged([1.0] * 48, judge="b"), "measured with another judge"),
        (judged([1.0] * 48, judge="b", sampler="euler"), "another judge and another sampler"),
        (losses(np.ones(3)), "the champion's evaluation kept no t2v_seen_all by prompt"),
        ({}, "the champion's evaluation kept no t2v_seen_all by prompt"),
    ],
)
def test_what_cannot_be_compared_says_why(theirs: dict[str, Group], reason: str) -> None:
    with pytest.raises(NotComparableError, match=reason):
        compare("t2v_seen_all", judged([1.0] * 48), theirs)


def test_results_come_back_as_they_were_kept(tmp_path: Path) -> None:
    results = judged([0.25] * 48) | losses(np.asarray([0.1, 1 / 3]))
    (tmp_path / FILE).write_text(to_json(results))
    assert read_results(tmp_path / FILE) == results
    assert read_results(tmp_path / "absent.json") == {}
