"""One clip that is not finite once destroyed weights, running average and the only checkpoint, and training ended without a word."""

import json

import pytest
import torch
from recipes import keys_of, small_recipe
from training_tools import flow_task, latent_set, preference_task, pretrain_stage, write_candidates

from mugv.errors import UserError
from mugv.guard import HISTORY, Guard, RefusedStepError
from mugv.recipe.optimizer import Guard as Settings
from mugv.recipe.schema import MuonSettings, Optimizer, Parallel
from mugv.training.checkpoint_writer import checkpoints
from mugv.training.engine import all_parameters
from mugv.training.loop import fit
from mugv.training.metrics_log import MetricsLog

SKIPPING = Optimizer(learning_rate=1e-3, guard=Settings(skips=3))
NAN, INF = float("nan"), float("inf")


def finite(task) -> bool:
    return all(bool(p.isfinite().all()) for p in all_parameters(task.result))


def weights(task) -> list[torch.Tensor]:
    return [p.detach().clone() for p in all_parameters(task.engine.chunks)]


@pytest.mark.parametrize("spoilt", [NAN, INF, 1e30, 1e12])
@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": Optimizer(learning_rate=1e-3, muon=MuonSettings())}, {"average_decay": 0.9}],
    ids=["adam", "muon", "average"],
)
def test_a_clip_that_is_not_finite_ends_the_stage_with_its_name_and_the_good_checkpoint(tmp_path, spoilt, settings):
    task = flow_task(latent_set(tmp_path / "latents", spoilt), pretrain_stage(**settings))
    with pytest.raises(UserError, match=r"step 3 .*clips .*c3"):
        fit(task, tmp_path / "train", 6, 2)
    assert 2 in [step for step, _ in checkpoints(tmp_path / "train")]
    assert finite(task)
    again = flow_task(latent_set(tmp_path / "latents", spoilt), pretrain_stage(**settings))
    again.load(tmp_path / "train" / "step-00000002")
    assert finite(again)
    assert len(MetricsLog(tmp_path / "train" / "metrics.jsonl").read()) == 2


@pytest.mark.parametrize("layout", [Parallel(micro_batch=1), Parallel(micro_batch=2, pack=True)], ids=["micro-batches", "packed"])
def test_the_message_names_the_clip_alone(tmp_path, layout):
    task = flow_task(latent_set(tmp_path / "latents", NAN), pretrain_stage(), layout)
    with pytest.raises(UserError, match=r"the loss is nan; clips c3; "):
        fit(task, tmp_path / "train", 6, 2)


def test_skipped_steps_leave_weights_optimizer_and_average_alone_and_show_in_the_metrics(tmp_path, caplog):
    task = flow_task(latent_set(tmp_path / "latents", NAN), pretrain_stage(optimizer=SKIPPING, average_decay=0.9))
    seen = []
    fit(
        task,
        tmp_path / "train",
        6,
        2,
        lambda done, total, metrics: seen.append((metrics, weights(task), [value.clone() for value in task.average])),
    )
    skipped = [i for i, (metrics, _, _) in enumerate(seen) if "skipped" in metrics]
    assert skipped == [2, 4]
    for kept in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(seen[1][kept], seen[2][kept], strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(seen[2][kept], seen[3][kept], strict=True))
    assert finite(task)
    lines = MetricsLog(tmp_path / "train" / "metrics.jsonl").read()
    assert [line["step"] for line in lines if "skipped" in line] == skipped
    assert "NaN" not in (tmp_path / "train" / "metrics.jsonl").read_text()
    assert "step 3 skipped: the loss is nan; clips c3" in caplog.text


def test_the_count_of_skips_outlives_a_kill(tmp_path):
    latents = latent_set(tmp_path / "latents", NAN)
    one = pretrain_stage(optimizer=Optimizer(learning_rate=1e-3, guard=Settings(skips=1)))
    fit(flow_task(latents, one), tmp_path / "train", 4, 2)
    with pytest.raises(UserError, match="step 5"):
        fit(flow_task(latents, one), tmp_path / "train", 6, 2)


@pytest.mark.parametrize("method", ["kto", "dpo"])
@pytest.mark.parametrize("where", ["candidates", "latents"])
def test_preference_rounds_refuse_a_candidate_or_a_clip_that_is_not_finite(tmp_path, method, where):
    latents = latent_set(tmp_path / "latents", NAN if where == "latents" else None)
    candidates = write_candidates(tmp_path, 16, NAN if where == "candidates" else None)
    task = preference_task(latents, candidates, method=method, sft_weight=1.0)
    with pytest.raises(UserError, match="0001-1" if where == "candidates" else "c3"):
        fit(task, tmp_path / "train", 10, 5)
    assert finite(task)


def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path):
    """An update can overflow after a loss and a gradient that were finite; only the next step's loss would show it."""
    task = flow_task(latent_set(tmp_path / "latents"), pretrain_stage())

    def overflow(done, total, metrics):
        if done == 4:
            with torch.no_grad():
                task.engine.chunks[0].start_token[0] = INF

    with pytest.raises(UserError, match="the weights are not finite"):
        fit(task, tmp_path / "train", 6, 2, overflow)
    assert max(step for step, _ in checkpoints(tmp_path / "train")) == 2


def test_a_rate_that_destroys_the_weights_is_noticed_at_the_next_step(tmp_path):
    huge = pretrain_stage(optimizer=Optimizer(learning_rate=1e12, schedule="constant"))
    with pytest.raises(UserError, match="step 2 would destroy the weights"):
        fit(flow_task(latent_set(tmp_path / "latents"), huge), tmp_path / "train", 6, 2)


def test_an_explosion_is_measured_against_the_largest_of_the_recent_norms():
    guard = Guard(Settings(explosion=100))
    for norm in (1.0, 3.0, 2.0):
        assert guard.reason(0.5, norm) is None
    assert guard.reason(0.5, 299.0) is None  # within the bound; counts from now on
    assert "times the largest of the last 4 steps" in str(guard.reason(0.5, 30_000.0))
    assert guard.reason(0.5, 29_000.0) is None
    for _ in range(100):
        assert guard.reason(0.5, 1.0) is None
    assert guard.reason(0.5, 101.0) is not None


def test_the_first_steps_have_nothing_to_explode_against():
    guard = Guard(Settings())
    assert [guard.reason(1.0, norm) for norm in (1e-9, 1e3)] == [None] * HISTORY


def test_a_resumed_guard_decides_as_the_first_one():
    guard, other = Guard(Settings(explosion=10, skips=1)), Guard(Settings(explosion=10, skips=1))
    for norm in (1.0, 1.0):
        guard.reason(0.0, norm)
    assert guard.refused("why", []).may_skip
    other.load(json.loads(json.dumps(guard.state())))
    assert other.reason(0.0, 11.0) == guard.reason(0.0, 11.0) is not None
    assert not other.refused("why", []).may_skip


def test_a_long_list_of_clips_is_cut():
    assert str(RefusedStepError("why", [f"c{i}" for i in range(9)], False)).endswith("c7, ...")


def test_no_training_clip_is_said_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no clip to train on; of its 12 clips none is in the split `train`"):
        flow_task(latent_set(tmp_path, train=0), pretrain_stage())


@pytest.mark.parametrize("key", ["pretrain.0", "sft"])
def test_a_warm_up_that_never_reaches_the_peak_is_refused(tmp_path, key):
    with pytest.raises(UserError, match=r"warmup_steps 40 .*must be fewer than the 40 steps"):
        small_recipe(tmp_path, f"{key}.optimizer.warmup_steps=40", f"{key}.steps=40")


def test_a_stage_that_may_skip_more_goes_on_where_it_ended(tmp_path):
    """Its work folder is named by the key: another key would begin the training anew."""
    keys = keys_of(small_recipe(tmp_path))
    guard = "guard={skips: 3, explosion: 10}"
    allowed = keys_of(small_recipe(tmp_path, f"pretrain.0.optimizer.{guard}", f"sft.optimizer.{guard}", f"vae.train.{guard}"))
    assert allowed == keys
    assert keys_of(small_recipe(tmp_path, "pretrain.0.optimizer.learning_rate=0.2"))["pretrain-0"] != keys["pretrain-0"]
