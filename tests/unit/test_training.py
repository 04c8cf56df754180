"""The engine: resume, checkpoints, data order, objectives."""

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from mugv.dataset.latentset import LatentNorm, LatentRow, LatentSet, write_latent_set
from mugv.dataset.sampler import clips_of_step
from mugv.errors import UserError
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import AlignRound, Flow, FrameMask, Optimizer, Parallel, PretrainStage
from mugv.training.checkpoint_writer import checkpoints
from mugv.training.engine import all_parameters, build_model
from mugv.training.flow_data import FlowData, generator_for
from mugv.training.loop import fit
from mugv.training.model_io import load_model_weights, save_model
from mugv.training.objectives import dpo_loss, kto_loss
from mugv.training.preferences import PreferenceData
from mugv.training.schedule import learning_rate
from mugv.training.tasks import FlowTask, PreferenceTask

TINY = DiTModel(layers=1, hidden=24, heads=2, latent_channels=4)


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    g = torch.Generator().manual_seed(0)
    rows = [LatentRow(f"c{i}", "train" if i < 10 else "validation", f"caption {i}", 0.1 * i, 12.0, i) for i in range(12)]
    texts = [np.random.default_rng(i).standard_normal((2 + i % 3, 8)).astype(np.float32) for i in range(12)]
    norm = LatentNorm((0.0,) * 4, (1.0,) * 4)
    data = {(32, 32): torch.randn(12, 4, 3, 4, 4, generator=g)}
    write_latent_set(folder, rows, data, texts, np.zeros((1, 8), np.float32), norm, {})
    return LatentSet.open(folder)


def stage(**changes):
    values = {"name": "a", "steps": 6, "batch": 4, "size": (32, 32), "frames": 17, "save_every": 2, "image_fraction": (0.5, 0.0)}
    return PretrainStage(**{**values, "optimizer": Optimizer(learning_rate=1e-3), "average_decay": 0.9, **changes})


def flow_task(latents, settings):
    data = FlowData(latents, latents.clips("train"), settings.size, settings.frames, settings.flow, settings.mask)
    return FlowTask(build_model(TINY, 8, 1, Parallel(), 0), data, settings, Parallel(), seed=1)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


class StoppedError(Exception):
    pass


def stop_after(step):
    def progress(done, total, metrics):
        if done == step:
            raise StoppedError

    return progress


def test_resumed_losses_equal_uninterrupted_ones_bit_for_bit(latents, tmp_path):
    fit(flow_task(latents, stage()), tmp_path / "whole", 6, 2)
    with pytest.raises(StoppedError):
        fit(flow_task(latents, stage()), tmp_path / "cut", 6, 2, progress=stop_after(3))
    resumed = flow_task(latents, stage())
    fit(resumed, tmp_path / "cut", 6, 2)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    whole = flow_task(latents, stage())
    fit(whole, tmp_path / "whole", 6, 2)
    assert all(torch.equal(a, b) for a, b in zip(all_parameters(whole.result), all_parameters(resumed.result), strict=True))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_training_after_its_step_with_a_checkpoint(latents, tmp_path, asynchronous, number):
    def ask(done, total, metrics):
        if done == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    fit(flow_task(latents, stage()), tmp_path / "whole", 6, 4)
    with pytest.raises(SystemExit) as stopped:
        fit(flow_task(latents, stage()), tmp_path / "cut", 6, 4, progress=ask, asynchronous=asynchronous)
    assert (stopped.value.code, str(stopped.value)) == (128 + number, "stopped after step 3 of 6; its checkpoint is kept")
    assert [step for step, _ in checkpoints(tmp_path / "cut")] == [3]
    assert signal.getsignal(number) is before
    fit(flow_task(latents, stage()), tmp_path / "cut", 6, 4)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_checkpoints_written_while_training_goes_on_hold_their_own_step(latents, tmp_path):
    """The writer runs beside later steps, which change the weights in place: what is loaded must be the step of its name."""
    fit(flow_task(latents, stage()), tmp_path / "whole", 6, 2)
    with pytest.raises(StoppedError):
        fit(flow_task(latents, stage()), tmp_path / "cut", 6, 2, progress=stop_after(5), asynchronous=True)
    assert [step for step, _ in checkpoints(tmp_path / "cut")] in ([2], [2, 4])
    fit(flow_task(latents, stage()), tmp_path / "cut", 6, 2, asynchronous=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert [step for step, _ in checkpoints(tmp_path / "cut")] == [4, 6]


def test_speed_counts_every_clip_once_without_padding_of_its_text(latents):
    from mugv.training.flops import Clip, step_flops
    from mugv.training.tasks import clips_of

    task = flow_task(latents, stage())
    video, image = (batch for batch, _ in task._micro_batches(0))
    clips = clips_of(video, 2) + clips_of(image, 2)
    assert [c.tokens for c in clips] == [3 * 4 + 2] * 2 + [4 + 2] * 2
    assert sorted({c.text for c in clips}) == sorted({int(n) for n in torch.cat([video.text_mask.sum(1), image.text_mask.sum(1)])})
    speed = task._speed([video, image], 2.0)["model_tflops"]
    assert speed == pytest.approx(step_flops(TINY, 8, [Clip(*c) for c in clips]).training / 2.0 / 1e12)


def test_a_half_written_checkpoint_is_never_loaded(latents, tmp_path):
    fit(flow_task(latents, stage()), tmp_path, 2, 2)
    (tmp_path / "writing-00000004").mkdir()
    assert [step for step, _ in checkpoints(tmp_path)] == [2]
    fit(flow_task(latents, stage()), tmp_path, 4, 2)
    assert [step for step, _ in checkpoints(tmp_path)] == [2, 4]


def test_milestones_survive_pruning(latents, tmp_path):
    fit(flow_task(latents, stage(steps=8)), tmp_path, 8, 2, milestones=frozenset({3}))
    assert [step for step, _ in checkpoints(tmp_path)] == [3, 6, 8]


def test_training_lowers_the_loss(latents, tmp_path):
    settings = stage(steps=60, batch=8, image_fraction=(0.0, 0.0), optimizer=Optimizer(learning_rate=1e-2), save_every=60)
    fit(flow_task(latents, settings), tmp_path, 60, 60)
    curve = losses(tmp_path)
    assert np.mean(curve[-10:]) < 0.97 * np.mean(curve[:10])


def test_saved_model_loads_strictly(latents, tmp_path):
    model = build_model(TINY, 8, 1, Parallel(), 0)
    save_model(model, tmp_path, {})
    other = build_model(TINY, 8, 1, Parallel(), 9)
    load_model_weights(other, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    wrong = build_model(TINY.model_copy(update={"layers": 2}), 8, 1, Parallel(), 0)
    with pytest.raises(Exception, match=r"layers\.1"):
        load_model_weights(wrong, tmp_path)


def test_ranks_with_one_clip_each_still_draw_timesteps_from_different_strata(latents):
    data = FlowData(latents, latents.clips("train"), (32, 32), 17, Flow(time_shift=False, timestep="uniform"), FrameMask())
    for step in range(5):
        drawn = sorted(float(data.batch(step, 8, 0, rank, 8).timestep) for rank in range(8))
        assert all(125 * i <= t < 125 * (i + 1) for i, t in enumerate(drawn))


def test_every_epoch_sees_every_clip_once_on_all_ranks():
    seen = [c for step in range(5) for rank in range(2) for c in clips_of_step(10, 4, step, 0, rank, 2)]
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_batch_that_ranks_cannot_share_equally_is_refused():
    """Five clips on two ranks left out one of each step."""
    with pytest.raises(ValueError, match="batch 5 must be a multiple of the 2 data-parallel ranks"):
        clips_of_step(10, 5, 0, 0, 1, 2)


def test_ranks_and_epochs_never_share_noise(latents):
    data = FlowData(latents, latents.clips("train"), (32, 32), 17, Flow(), FrameMask())
    batches = [data.batch(step, 4, 0, rank, 2) for step in (0, 5) for rank in (0, 1)]
    assert all(not torch.equal(a.noise, b.noise) for i, a in enumerate(batches) for b in batches[i + 1 :])
    assert all(not torch.equal(a.timestep, b.timestep) for i, a in enumerate(batches) for b in batches[i + 1 :])


def test_generators_do_not_collide():
    first = {float(torch.rand(1, generator=generator_for(s, t, r))) for s in range(3) for t in range(20) for r in range(3)}
    assert len(first) == 180


def test_runs_with_neighbouring_seeds_share_no_draw():
    """With 32-bit seeds of torch's generator, seed s + 1 drew what seed s drew, in another order, and error bars meant nothing."""
    first = [torch.rand(2, generator=generator_for(seed, step, 0)) for seed in (0, 1) for step in range(400)]
    assert len({tuple(draw.tolist()) for draw in first}) == 800
    # The pair that shared noise, timesteps and masks before.
    assert not torch.equal(torch.rand(4, generator=generator_for(6309, 561, 0)), torch.rand(4, generator=generator_for(6310, 0, 0)))
    states = {generator_for(seed, step, 0).get_state()[24:32].numpy().tobytes() for seed in range(10) for step in range(500)}
    assert len(states) == 5000


def test_draws_are_uniform_and_independent_of_the_generators_before():
    again = torch.rand(200_000, generator=generator_for(3, 7, 0), dtype=torch.float64)
    assert torch.equal(again, torch.rand(200_000, generator=generator_for(3, 7, 0), dtype=torch.float64))
    assert float(again.mean()) == pytest.approx(0.5, abs=3e-3)
    assert float(again.var() * 12) == pytest.approx(1.0, abs=1e-2)


def test_captions_are_dropped_whole_and_at_the_asked_rate(latents):
    rows = latents.clips("train")
    data = FlowData(latents, rows, (32, 32), 17, Flow(caption_dropout_t2v=0.5), FrameMask())
    dropped = [
        x is None for step in range(100) for x in data._dropped(rows, torch.ones(10, 3, dtype=torch.bool), generator_for(0, step, 0))
    ]
    assert np.mean(dropped) == pytest.approx(0.5, abs=0.05)


def test_a_damaged_latent_file_is_refused(latents, tmp_path):
    import shutil

    shutil.copytree(latents.folder, tmp_path / "copy")
    file = tmp_path / "copy" / "text.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="digest"):
        LatentSet.open(tmp_path / "copy")


def test_learning_rate_warms_up_and_decays():
    settings = Optimizer(learning_rate=1.0, minimum_learning_rate=0.1, schedule="cosine", warmup_steps=10)
    assert learning_rate(settings, 0, 100) == pytest.approx(0.1)
    assert learning_rate(settings, 10, 100) == pytest.approx(1.0)
    assert learning_rate(settings, 99, 100) == pytest.approx(0.1, abs=0.01)


def test_dpo_prefers_the_winner():
    assert float(dpo_loss(torch.tensor([0.0]), torch.tensor([0.0]), 10)) == pytest.approx(math.log(2))
    assert float(dpo_loss(torch.tensor([-0.1]), torch.tensor([0.1]), 10)) < math.log(2)


def test_kto_rewards_passes_and_punishes_failures():
    passed = torch.tensor([True, False])
    better = kto_loss(torch.tensor([-0.1, 0.1]), passed, 10)
    worse = kto_loss(torch.tensor([0.1, -0.1]), passed, 10)
    assert float(better) < float(worse)


def candidates(folder):
    from safetensors.torch import save_file

    names = ["0000-0", "0000-1", "0001-0", "0001-1"]
    g = torch.Generator().manual_seed(3)
    tensors = {
        "latents": torch.randn(4, 4, 3, 4, 4, generator=g),
        "embeddings": torch.randn(8, 8, generator=g),
        "offsets": torch.arange(0, 10, 2),
    }
    save_file(tensors, folder / "candidates.safetensors")
    (folder / "candidates.json").write_text(json.dumps({"clips": names, "prompts": ["a", "a", "b", "b"]}))
    lines = [{"kind": "absolute", "clip": n, "pass": n.endswith("0")} for n in names]
    lines += [{"kind": "pair", "winner": "0000-0", "loser": "0000-1"}, {"kind": "pair", "winner": "0001-0", "loser": "0001-1"}]
    (folder / "labels.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_a_preference_round_widens_the_margin(method, latents, tmp_path):
    candidates(tmp_path)
    round_ = AlignRound(method=method, steps=40, batch=4, beta=50, sft_weight=0.1, optimizer=Optimizer(learning_rate=3e-3))
    real = FlowData(latents, latents.clips("train"), (32, 32), 17, Flow(), FrameMask())
    task = PreferenceTask(build_model(TINY, 8, 1, Parallel(), 0), PreferenceData(tmp_path, 1.0, 12.0), real, round_, Parallel(), 0)
    fit(task, tmp_path / "train", 40, 40)
    lines = [json.loads(x) for x in (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["reward_margin"] == pytest.approx(0.0, abs=1e-5)
    assert np.mean([x["reward_margin"] for x in lines[-10:]]) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="megatron compiles there")
def test_starting_to_train_on_a_cpu_loads_no_compiler():
    """megatron decorates at import what we never call: 1.6 of the 3.9 seconds that every stage took to start."""
    program = "import sys, mugv.training.engine, mugv.training.model_io; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.startswith(("torch._inductor", "torch._dynamo"))]
