"""The time that a run is said to take must follow what has been measured of it, and count nothing that is there already."""

from __future__ import annotations

from pathlib import Path

import pytest

from mugv.cli.expected import START, Expected, estimate, expected, minutes
from mugv.recipe import load_recipe
from mugv.stages.graph import build_graph

PLAN = {"a": Expected(((10, 1.0),)), "b": Expected(((10, 1.0), (10, 4.0))), "c": Expected(((1, 26.0),))}


def ran(node: str, started: float, ended: float, status: str = "ran") -> dict:
    return {"node": node, "status": status, "started": started, "ended": ended}


def test_twice_as_slow_as_the_reference_takes_twice_as_long():
    found = estimate(PLAN, [ran("a", 0, 2 * (START + 10))], {}, 0.0, 2 * (START + 10))
    assert found is not None
    assert found.factor == pytest.approx(2)
    assert found.left == pytest.approx(2 * (PLAN["b"].seconds + PLAN["c"].seconds))
    assert found.total == pytest.approx(found.left + 28)


def test_parts_of_a_running_stage_cost_what_they_cost():
    stages = [{"node": "b", "status": "running", "started": 0.0}]
    half = {"b": {"done": 10, "total": 20, "time": START + 10}}
    found = estimate(PLAN, stages, half, 0.0, START + 10)
    assert found is not None
    assert found.factor == pytest.approx(1)
    assert found.left == pytest.approx(40 + PLAN["a"].seconds + PLAN["c"].seconds)


def test_what_was_done_before_a_kill_makes_no_machine_faster():
    """A run that goes on has most of a stage after a second: it would promise a hundredth of the time."""
    running = {"node": "b", "status": "running", "started": 100.0, "resumed": True}
    progress = {"b": {"done": 19, "total": 20, "time": 109.0}}
    assert estimate(PLAN, [running], progress, 100.0, 109.0) is None
    stages = [ran("b", 100.0, 110.0, "resumed"), ran("a", 110.0, 110.0 + PLAN["a"].seconds)]
    found = estimate(PLAN, stages, {}, 100.0, 130.0)
    assert found is not None
    assert found.factor == pytest.approx(1)
    assert found.left == pytest.approx(PLAN["c"].seconds)


def test_what_the_store_has_takes_no_time():
    stages = [ran("a", 0, 0.1, "hit"), ran("b", 0, PLAN["b"].seconds)]
    found = estimate(PLAN, stages, {}, 0.0, 60.0)
    assert found is not None
    assert found.left == pytest.approx(PLAN["c"].seconds)


def test_nothing_is_said_before_anything_is_measured():
    assert estimate(PLAN, [{"node": "a", "status": "running", "started": 0.0}], {}, 0.0, 1.0) is None
    old = {"a": {"done": 5, "total": 10, "time": 1.0}}
    assert estimate(PLAN, [{"node": "a", "status": "running", "started": 5.0}], old, 0.0, 9.0) is None


def test_every_stage_of_the_tiny_recipe_that_takes_time_is_counted():
    recipe = load_recipe(Path("configs/tiny.yaml"))
    known = expected(recipe, build_graph(recipe))
    counted = {"footage", "curate_shard-0", "train_vae", "encode", "pretrain-1", "pretrain-2", "sft", "candidates", "align-0", "evaluate"}
    assert counted <= set(known)
    assert all(value.seconds > START for value in known.values())
    assert {"scan", "curate", "register"}.isdisjoint(known)


def test_a_users_videos_leave_out_what_their_number_decides(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    recipe = load_recipe(Path("configs/footage.yaml"), [f"data.videos={tmp_path}"])
    known = expected(recipe, build_graph(recipe))
    assert "encode" not in known
    assert "train_vae" in known


@pytest.mark.parametrize(("seconds", "text"), [(41, "41 s"), (130, "3 min"), (840, "14 min"), (3700, "1 h 2 min")])
def test_times_are_rounded_up_to_minutes(seconds, text):
    assert minutes(seconds) == text
