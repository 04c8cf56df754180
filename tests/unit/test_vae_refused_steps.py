"""The VAE and its discriminator are guarded as the DiT is: a step that would destroy weights changes nothing."""

import copy

import numpy as np
import pytest
import torch
from test_vae_training import MODEL, phase

from mugv.draws import generator_for, seed_of
from mugv.errors import UserError
from mugv.media.shapes import ALL_COMBINATIONS, render, sample_motion
from mugv.recipe.schema import Guard, VAETraining
from mugv.training.checkpoint_writer import checkpoints
from mugv.training.loop import fit
from mugv.training.metrics_log import MetricsLog
from mugv.vae import VideoVAE
from mugv.vae.training import VAETask


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([render(c, sample_motion(c, 17, rng), 17, 16, rng) for c in ALL_COMBINATIONS[::12]]))


def make(clips, steps: int = 6, skips: int = 0, **settings) -> VAETask:
    torch.manual_seed(0)
    training = VAETraining(phases=(phase("joint", steps),), guard=Guard(skips=skips), precision="fp32", **settings)
    return VAETask(VideoVAE(MODEL), training, lambda size: clips, 3, [f"clip-{i}" for i in range(len(clips))])


def spoil(task: VAETask, step: int) -> None:
    """The loss of one step is not finite, after everything in it was computed as ever."""
    compute = task._loss

    def spoilt(now_phase, now, generator):
        loss, metrics = compute(now_phase, now, generator)
        return loss * (float("nan") if now == step else 1.0), metrics

    task._loss = spoilt  # type: ignore[method-assign]


def state(task: VAETask) -> dict:
    networks, optimizers = (task.vae, task.discriminator), (task.optimizer, task.discriminator_optimizer)
    weights = {name: network.state_dict() for name, network in zip(("vae", "discriminator"), networks, strict=True)}
    return copy.deepcopy({**weights, "moments": [optimizer.state_dict()["state"] for optimizer in optimizers]})


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return all(map(same, a, b)) if isinstance(a, list | tuple) else a == b


def test_a_loss_that_is_not_finite_ends_the_training_with_its_step_and_clips(clips, tmp_path):
    task = make(clips)
    spoil(task, 4)
    with pytest.raises(UserError, match=r"step 5 .*the loss is nan; clips clip-\d"):
        fit(task, tmp_path, 6, 2)
    assert [step for step, _ in checkpoints(tmp_path)][-1] == 4
    assert all(bool(p.isfinite().all()) for p in task.vae.parameters())


def test_weights_that_are_not_finite_never_become_a_checkpoint(clips, tmp_path):
    task = make(clips)

    def overflow(done, total, metrics):
        if done == 4:
            with torch.no_grad():
                task.vae.logvar.fill_(float("inf"))

    with pytest.raises(UserError, match="the weights are not finite"):
        fit(task, tmp_path, 6, 2, overflow)
    assert [step for step, _ in checkpoints(tmp_path)] == [2]


def test_a_skipped_step_leaves_autoencoder_and_discriminator_as_they_were(clips, tmp_path):
    task, seen = make(clips, skips=1, gan_weight=0.1, gan_last_fraction=1.0), []
    spoil(task, 2)
    fit(task, tmp_path, 6, 6, lambda done, total, metrics: seen.append(state(task)))
    assert same(seen[1], seen[2])
    assert not same(seen[2]["discriminator"], seen[3]["discriminator"])
    assert [line["step"] for line in MetricsLog(tmp_path / "metrics.jsonl").read() if "skipped" in line] == [2]
    assert task.guard.skipped == 1


def test_a_discriminator_that_is_not_finite_is_named_before_it_steps(clips, tmp_path):
    task = make(clips, gan_weight=0.1, gan_last_fraction=0.5)
    with torch.no_grad():
        next(task.discriminator.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match=r"step 4 .*discriminator: the loss is nan"):
        fit(task, tmp_path, 6, 3)
    assert not task.discriminator_optimizer.state_dict()["state"]
    assert all(bool(p.isfinite().all()) for p in task.vae.parameters())


def test_steps_of_vae_training_share_no_draw_between_seeds():
    """Of (seed * 1000003 + step) * 4096 torch's 32 bits left 20: step 8513 of seed 0 and step 0 of seed 43 drew the same."""
    twins = [torch.rand(4, generator=generator_for(seed, step, 0, 16)) for seed, step in ((0, 8513), (43, 0))]
    assert not torch.equal(*twins)
    first = {tuple(torch.rand(2, generator=generator_for(seed, step, 0, 16)).tolist()) for seed in range(10) for step in range(300)}
    assert len(first) == 3000


def test_no_stage_of_one_run_has_the_seed_of_another_runs_stage():
    """Sums gave round 1 of seed 0 the draws of round 0 of seed 1, and stage 2 of seed 0 those of stage 1 of seed 1000."""
    nodes = ["pretrain-0", "pretrain-1", "pretrain-2", "sft", "align-0", "align-1"]
    assert len({seed_of(seed, node) for seed in range(3000) for node in nodes}) == 3000 * len(nodes)
    candidates = {seed_of(seed, "candidates", f"{i:04d}-{j}") for seed in range(10) for i in range(24) for j in range(4)}
    assert len(candidates) == 10 * 96
