"""What a step reports and learns must not depend on how its clips are cut into micro-batches."""

import pytest
import torch
from training_tools import flow_task, latent_set, preference_task, pretrain_stage, write_candidates

from mugv.recipe.schema import Optimizer, Parallel
from mugv.training.engine import all_parameters
from mugv.training.schedule import learning_rate


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return latent_set(tmp_path_factory.mktemp("latents"))


@pytest.fixture(scope="module")
def candidates(tmp_path_factory):
    return write_candidates(tmp_path_factory.mktemp("candidates"))


def worst(one, other) -> float:
    pairs = zip(all_parameters(one.result), all_parameters(other.result), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("images", [0.0, 0.5])
def test_the_flow_loss_of_a_step_is_the_mean_of_its_clips(latents, micro_batch, images):
    settings = pretrain_stage(image_fraction=(images, images))
    whole, parts = (flow_task(latents, settings, Parallel(micro_batch=size)) for size in (None, micro_batch))
    for step in range(3):
        expected, found = whole.train_step(step), parts.train_step(step)
        for name in ("loss", "flow_loss", *(["image_flow_loss"] if images else [])):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 6])
@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_a_preference_round_does_not_depend_on_its_micro_batches(latents, candidates, method, micro_batch):
    """KTO's reference point was the mean of a micro-batch: with one clip each, KTO was a pairwise loss."""
    # Where a gradient is truly zero, Adam turns rounding noise into whole steps unless epsilon is above the noise.
    values = {"method": method, "beta": 50, "optimizer": Optimizer(learning_rate=1e-3, epsilon=1e-3)}
    whole, parts = (preference_task(latents, candidates, Parallel(micro_batch=size), **values) for size in (None, micro_batch))
    for step in range(10):
        expected, found = whole.train_step(step), parts.train_step(step)
    assert worst(whole, parts) <= 1e-6
    for name in (f"{method}_loss", "reward_margin", "gradient_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(("steps", "warmup"), [(6, 0), (100, 10), (3, 2), (2, 1), (2, 0)])
def test_a_schedule_ends_at_its_minimum(schedule, steps, warmup):
    settings = Optimizer(learning_rate=1.0, minimum_learning_rate=0.1, schedule=schedule, warmup_steps=warmup)
    rates = [learning_rate(settings, step, steps) for step in range(steps)]
    assert rates[-1] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)


def test_the_rates_of_six_cosine_steps():
    settings = Optimizer(learning_rate=1.0, schedule="cosine")
    found = [learning_rate(settings, step, 6) for step in range(6)]
    assert found == pytest.approx([1.0, 0.9045, 0.6545, 0.3455, 0.0955, 0.0], abs=1e-4)
    assert learning_rate(settings, 0, 1) == 1.0


def test_the_means_are_of_finite_parts(latents):
    assert torch.isfinite(torch.tensor(list(flow_task(latents, pretrain_stage()).train_step(0).values()))).all()
