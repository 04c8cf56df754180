"""The interval between checkpoints: Young, Daly, the exact long-run goodput, and a simulation that knows none of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.training.goodput import (
    DAY,
    STALL_SHARE,
    Failures,
    Save,
    checkpoint_bytes,
    daly,
    expected,
    recommended,
    simulate,
    young,
)

HOUR = 3600.0


def test_young_s_interval_of_a_five_minute_save_and_a_failure_a_day_is_two_hours() -> None:
    assert young(5 * 60, 24 * HOUR) == pytest.approx(2 * HOUR)


@pytest.mark.parametrize("ratio", [1e-4, 1e-3, 1e-2, 0.1, 0.5])
def test_daly_s_interval_is_within_a_thousandth_of_the_best_wall_time(ratio: float) -> None:
    """Against the least of his exact wall time, found on a fine grid; Young's is worse wherever saves are not negligible."""
    save, failures = Save(ratio, 1.0), Failures(notice=0, restart=0)
    best = max(expected(x, save, failures, 1.0) for x in np.geomspace(1e-4, 10, 20_000))
    found = expected(daly(ratio, 1.0), save, failures, 1.0)
    assert 1 - 1e-3 < found / best <= 1 + 1e-6
    assert found >= expected(young(ratio, 1.0), save, failures, 1.0)


def test_a_save_that_takes_longer_than_two_failures_is_made_once_in_a_failure() -> None:
    assert daly(3.0, 1.0) == 1.0


def test_the_exact_goodput_is_daly_s_wall_time_where_the_loop_waits() -> None:
    between, interval, stall, restart = 24 * HOUR, 2 * HOUR, 300.0, 600.0
    wall = between * math.exp(restart / between) * math.expm1((interval + stall) / between) / interval
    assert expected(interval, Save(stall, 1.0), Failures(notice=0, restart=restart), between) == pytest.approx(1 / wall, rel=1e-12)


@pytest.mark.parametrize("stall_share", [1.0, STALL_SHARE])
@pytest.mark.parametrize("interval", [600.0, 3000.0])
def test_the_simulation_finds_the_exact_goodput_within_its_standard_error(interval: float, stall_share: float) -> None:
    """Failures every two hours, so that restarts fail too and saves are lost half written."""
    save, failures = Save(240.0, 1.0, stall_share), Failures(notice=100.0, restart=900.0)
    exact = expected(interval, save, failures, 2 * HOUR)
    off = [(s.goodput - exact) / s.error for s in (simulate(interval, save, failures, 2 * HOUR, 3000, seed) for seed in range(5))]
    assert max(map(abs, off)) < 3.5, off
    assert abs(np.mean(off)) < 3 / math.sqrt(5), "no bias"


def test_shares_of_the_wall_time_add_up_to_one() -> None:
    found = simulate(600, Save(30, 1.0), Failures(), 5 * HOUR)
    assert found.goodput + found.saving + found.repeated + found.down == pytest.approx(1)
    assert found == simulate(600, Save(30, 1.0), Failures(), 5 * HOUR), "a seed gives the same again"


def test_512_gpus_with_asynchronous_checkpoints_of_mug_v_keep_98_percent() -> None:
    """10.83 B parameters with a running average, 5 GB/s of storage, failures as often as Llama 3.1's and as one a day per 1,000 GPUs."""
    save = Save(checkpoint_bytes(10_830_321_984, average=True), 5e9, STALL_SHARE)
    for rate in (0.485, 1.0):
        failures = Failures(rate)
        between = failures.between(512)
        assert between == pytest.approx(DAY / (rate * 0.512))
        found = simulate(recommended(save, between), save, failures, between)
        assert found.goodput - 3 * found.error > 0.98
        waiting = Save(save.bytes, save.bandwidth)
        slower = expected(recommended(waiting, between), waiting, failures, between)
        assert slower < found.goodput


def test_writes_never_overlap() -> None:
    slow = Save(900.0, 1.0, STALL_SHARE)
    assert recommended(slow, 1000.0) + slow.stall >= slow.write


def test_a_job_that_never_fails_loses_only_its_saves() -> None:
    failures = Failures(rate=0.0)
    between = failures.between(512)
    assert math.isinf(between)
    assert expected(90.0, Save(10.0, 1.0), failures, between) == 0.9
    assert simulate(90.0, Save(10.0, 1.0), failures, between).goodput == 0.9


def test_the_plan_compares_the_recipe_s_interval_with_the_best_for_every_stage() -> None:
    recipe = Path(__file__).resolve().parents[2] / "configs" / "mugv-10b-finetune.yaml"
    arguments = ["plan", "--recipe", str(recipe), "--gpus", "512", "--failures", "1", "--json"]
    found = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    saves = {stage["stage"]: stage["checkpoint"] for stage in found["stages"] if stage["layouts"]}
    assert saves
    for name, save in saves.items():
        better = save["recommended"]
        assert better["goodput"] > 0.98, name
        assert better["goodput"] >= save["goodput"], "else the recipe's own were the better one"
        assert abs(better["simulated"]["goodput"] - better["goodput"]) < 4 * better["simulated"]["standard_error"]
