"""`mugv plan --gpus`: only layouts that are valid and fit, and the arithmetic of days."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.cli.plan_layouts import none_fits, training_stages
from mugv.recipe import Recipe, load_recipe
from mugv.training.layouts import RESERVE, Cluster, Proposal, Work, all_proposals, best, best_for_all, evaluate

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "mugv-10b.yaml"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPE)


@pytest.fixture(scope="module")
def stages(recipe: Recipe) -> list[tuple[Work, list[Proposal]]]:
    return [(work, all_proposals(work, Cluster(512))) for work in training_stages(recipe)]


def stage(recipe: Recipe, name: str) -> Work:
    return next(work for work in training_stages(recipe) if work.name == name)


def test_an_epoch_of_12_million_720p_clips_is_6_2_days_on_500_gpus(recipe: Recipe) -> None:
    """Facts 4.7: 1.05e23 FLOP, 500 H100 at 40 % of 989 TFLOP/s."""
    flops = 12e6 * stage(recipe, "curriculum-3").cost.sample.training
    assert flops == pytest.approx(1.05e23, abs=0.005e23)
    assert Cluster(500).seconds(flops) / 86400 == pytest.approx(6.2, abs=0.05)


def test_a_layout_that_does_not_fit_is_never_proposed(stages: list[tuple[Work, list[Proposal]]]) -> None:
    cluster = Cluster(512)
    for work, found in stages:
        assert any(p.memory.total > cluster.usable for p in found), "the test means nothing if everything fits"
        chosen = best(found, cluster, 1000)
        assert chosen
        assert all(p.memory.total + RESERVE <= 80e9 for p in chosen), work.name


def test_every_candidate_is_valid(stages: list[tuple[Work, list[Proposal]]]) -> None:
    for work, found in stages:
        heads = work.recipe.dit.heads // work.divisor
        for p in found:
            layout = p.layout
            assert layout.world == layout.data * layout.tensor * layout.pipeline * layout.context == 512
            assert heads % layout.tensor == 0
            assert layout.tensor <= 8, "tensor ranks share a node"
            assert work.recipe.dit.layers % (layout.pipeline * layout.virtual_pipeline) == 0
            assert work.stage.batch == layout.data * p.micro_batches * (layout.micro_batch or 0)
            assert layout.sequence_parallel == (layout.tensor > 1)
            if layout.virtual_pipeline > 1:
                assert p.micro_batches % layout.pipeline == 0


def test_interleaving_is_not_proposed_where_the_number_of_micro_batches_changes(stages: list[tuple[Work, list[Proposal]]]) -> None:
    with_images = [found for work, found in stages if work.has_images]
    assert len(with_images) == 2
    assert all(p.layout.virtual_pipeline == 1 for found in with_images for p in found)


def test_the_first_proposal_is_the_fastest_that_fits(stages: list[tuple[Work, list[Proposal]]]) -> None:
    cluster = Cluster(512)
    for _, found in stages:
        fits = [p.time.total for p in found if p.memory.total <= cluster.usable]
        assert best(found, cluster, 3)[0].time.total == min(fits)


def test_one_layout_for_all_stages_fits_each(stages: list[tuple[Work, list[Proposal]]]) -> None:
    cluster = Cluster(512)
    layout = best_for_all(stages, cluster)
    assert layout is not None
    assert all(evaluate(work, layout, cluster).memory.total <= cluster.usable for work, _ in stages)


def test_the_published_layout_is_refused_for_720p_without_recompute(recipe: Recipe) -> None:
    """TP4 PP4 without recomputation (the README's 64 nodes, the paper's aim) needs more than 80 GB for one 720p clip a micro-batch."""
    layout = recipe.parallel.model_copy(
        update={"tensor": 4, "pipeline": 4, "context": 1, "sequence_parallel": True, "recompute": "none", "micro_batch": 1}
    )
    assert evaluate(stage(recipe, "curriculum-3"), layout, Cluster(512)).memory.total > 80e9


def test_estimates_follow_what_is_added(recipe: Recipe, stages: list[tuple[Work, list[Proposal]]]) -> None:
    work, found = stages[3]
    by_mode = {
        mode: next(p for p in found if p.layout.recompute == mode and (p.layout.tensor, p.layout.pipeline, p.layout.context) == (4, 1, 2))
        for mode in ("none", "selective", "full")
    }
    assert by_mode["none"].time.total < by_mode["selective"].time.total < by_mode["full"].time.total
    assert by_mode["full"].time.recompute / by_mode["full"].time.compute == pytest.approx(1 / 3, rel=0.01)
    assert by_mode["none"].time.bubble == by_mode["none"].time.pipeline == 0
    layout = by_mode["none"].layout
    deep = evaluate(work, layout.model_copy(update={"pipeline": 4, "context": 1}), Cluster(512))
    assert deep.time.bubble / (deep.time.compute + deep.time.tensor) == pytest.approx(3 / deep.micro_batches)
    assert evaluate(work, layout, Cluster(512, mfu=0.2)).time.compute == pytest.approx(2 * by_mode["none"].time.compute)


def test_too_small_a_cluster_is_one_line_with_the_smallest_requirement(recipe: Recipe) -> None:
    work, cluster = stage(recipe, "curriculum-3"), Cluster(8, memory=35e9)
    found = all_proposals(work, cluster)
    assert best(found, cluster, 3) == []
    line = none_fits(work, found, cluster)
    number = re.search(r"curriculum-3: no layout of 8 GPUs fits 35 GB; the smallest needs (\S+) GB a GPU", line)
    assert number, line
    assert float(number[1]) == pytest.approx((min(p.memory.total for p in found) + RESERVE) / 1e9, abs=0.06)
    assert "\n" not in line


def test_a_cluster_that_nothing_divides_is_one_line(recipe: Recipe) -> None:
    work, cluster = stage(recipe, "curriculum-3"), Cluster(11)
    assert none_fits(work, all_proposals(work, cluster), cluster).startswith("curriculum-3: no layout of 11 GPUs divides a batch of 128")


def test_the_command_prints_layouts_memory_and_times_as_estimates() -> None:
    done = CliRunner().invoke(app, ["plan", "--gpus", "512", "--recipe", str(RECIPE), "--epoch", "12000000"])
    assert done.exit_code == 0, done.stderr
    text = done.stdout
    assert "50,402 tokens, 8.77 PFLOP a sample" in text
    assert "Times are ESTIMATES" in text
    assert "6.0 days an epoch of 12,000,000 clips" in text
    assert len(re.findall(r"^  TP\d", text, re.MULTILINE)) == 3 * 5
    assert "one layout for all stages" in text


@pytest.mark.parametrize("flags", [["--gpus", "0"], ["--gpus", "8", "--mfu", "0"], ["--gpus", "8", "--gpu-memory", "0"]])
def test_impossible_flags_are_refused(flags: list[str]) -> None:
    assert CliRunner().invoke(app, ["plan", *flags]).exit_code == 2


def test_the_plain_plan_says_that_the_recipe_s_layout_does_not_fit(tmp_path: Path) -> None:
    changes = ["parallel.tensor=4", "parallel.pipeline=4", "parallel.context=1", "parallel.recompute=none", "parallel.micro_batch=1"]
    changes += ["parallel.virtual_pipeline=1", "parallel.sequence_parallel=true"]
    arguments = ["plan", "--recipe", str(RECIPE), "--state", str(tmp_path), *(x for c in changes for x in ("--set", c))]
    done = CliRunner().invoke(app, arguments)
    assert re.search(r"a rank needs 1\d\d GB, more than a GPU of 80 GB; `mugv plan --gpus 512` proposes", done.stdout)
