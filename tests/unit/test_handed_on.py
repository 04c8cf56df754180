"""In bf16 a stage once handed on the rounded weights: 97 % of what a preference round learned, and a third of an adapter, was gone.

Every test measures the relative error of the update, over all trained weights, in what the next stage's optimizer starts from.
"""

from __future__ import annotations

import pytest
import torch
from training_tools import latent_set, pretrain_stage, write_candidates

from mugv.dit.lora import attach, merge
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import AlignRound, Flow, FrameMask, LoRA, MuonSettings, Optimizer, Parallel
from mugv.stages.sft import average_checkpoints
from mugv.training.checkpoint_writer import checkpoints
from mugv.training.engine import Engine, build_chunks
from mugv.training.flow_data import FlowData
from mugv.training.loop import fit
from mugv.training.model_io import load_chunks, save_model
from mugv.training.preferences import PreferenceData
from mugv.training.tasks import FlowTask, PreferenceTask

MODEL = DiTModel(layers=1, hidden=48, heads=2, latent_channels=4, gate_init="random")
BF16 = Parallel(precision="bf16")
CONFIG = {"model": MODEL.model_dump(), "text": {"width": 8}, "width_divisor": 1}
SMALL = Optimizer(learning_rate=7e-7, schedule="constant")
"""A weight travels far less than half a step of bf16."""
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return latent_set(tmp_path_factory.mktemp("latents"))


def start():
    return build_chunks(MODEL, 8, 1, BF16, 0, torch.float32)


def state_of(network) -> State:
    return {name: p.detach().float().clone() for chunk in network for name, p in chunk.named_parameters()}


def masters(engine: Engine) -> State:
    """What megatron itself holds beside each trained parameter."""
    return {name: p.main_param.clone() for chunk in engine.chunks for name, p in chunk.named_parameters() if p.requires_grad}


def received(network, folder) -> State:
    """The next stage's masters after it has loaded what this one published."""
    save_model(network, folder, CONFIG)
    chunks, _ = load_chunks(folder, BF16, torch.float32)
    engine = Engine(chunks, SMALL, BF16)
    found = masters(engine)
    for name, parameter in engine.chunks[0].named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, found[name].bfloat16()), name
    return found


def error(found: State, expected: State, before: State) -> float:
    off = sum(float((found[name] - value).square().sum()) for name, value in expected.items())
    update = sum(float((value - before[name]).square().sum()) for name, value in expected.items())
    assert update > 0
    return (off / update) ** 0.5


def rounding_loses_it(expected: State, before: State) -> bool:
    return error({name: value.bfloat16().float() for name, value in expected.items()}, expected, before) > 0.2


def flow_task(latents, stage, network=None) -> FlowTask:
    data = FlowData(latents, latents.clips("train"), stage.size, stage.frames, stage.flow, stage.mask)
    return FlowTask(network or start(), data, stage, BF16, seed=1)


@pytest.mark.parametrize("muon", [None, MuonSettings(learning_rate=1e-6)], ids=["adam", "muon"])
def test_after_pretraining(latents, tmp_path, muon):
    before = state_of(start())
    task = flow_task(latents, pretrain_stage(optimizer=SMALL.model_copy(update={"muon": muon})))
    for step in range(4):
        task.train_step(step)
    expected = masters(task.engine)
    assert rounding_loses_it(expected, before)
    assert error(received(task.result, tmp_path), expected, before) < 1e-6


def test_after_pretraining_with_a_running_average(latents, tmp_path):
    before = state_of(start())
    stage = pretrain_stage(optimizer=SMALL, average_decay=0.9)
    task, expected = flow_task(latents, stage), {name: value.clone() for name, value in before.items()}

    def follow(done, total, metrics):
        weight = 1 - min(0.9, done / (9 + done))
        for name, value in masters(task.engine).items():
            expected[name].lerp_(value, weight)

    fit(task, tmp_path / "train", 4, 4, follow)
    assert rounding_loses_it(expected, before)
    assert error(received(task.result, tmp_path), expected, before) < 0.01
    resumed = flow_task(latents, stage)
    resumed.load(tmp_path / "train" / "step-00000004")
    assert all(torch.equal(a, b) for a, b in zip(task.average, resumed.average, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_after_the_average_of_sft(latents, tmp_path, decay):
    before = state_of(start())
    task, seen = flow_task(latents, pretrain_stage(optimizer=SMALL, average_decay=decay)), []

    def follow(done, total, metrics):
        seen.append(state_of(task.result) if decay else masters(task.engine))

    fit(task, tmp_path / "train", 6, 6, follow, milestones=frozenset({2, 4, 6}))
    paths = [path for step, path in checkpoints(tmp_path / "train") if step in (2, 4, 6)]
    result = average_checkpoints(task, paths, 0.9)
    weights = torch.tensor([0.81, 0.9, 1.0], dtype=torch.float64) / 2.71
    expected = {name: sum(float(w) * seen[i][name] for w, i in zip(weights, (1, 3, 5), strict=True)) for name in before}
    assert rounding_loses_it(expected, before)
    assert error(received(result, tmp_path), expected, before) < 0.01


@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_after_a_preference_round(latents, tmp_path, method):
    before = state_of(start())
    round_ = AlignRound(method=method, steps=8, batch=8, beta=100, optimizer=SMALL)
    real = FlowData(latents, latents.clips("train"), (32, 32), 17, Flow(), FrameMask())
    preferences = PreferenceData(write_candidates(tmp_path), 1.0, 12.0)
    task = PreferenceTask(start(), preferences, real, round_, BF16, 0)
    assert task.train_step(0)["reward_margin"] == 0  # the frozen reference is rounded from the same weights
    for step in range(1, 8):
        task.train_step(step)
    expected = masters(task.engine)
    assert error({name: value.bfloat16().float() for name, value in expected.items()}, expected, before) > 0.5
    assert error(received(task.result, tmp_path), expected, before) < 1e-6


def test_after_a_merge_of_adapters(latents, tmp_path):
    before, network, settings = state_of(start()), start(), LoRA(rank=4, alpha=4.0)
    for chunk in network:
        attach(chunk, settings)
    task = flow_task(latents, pretrain_stage(optimizer=Optimizer(learning_rate=1e-4, schedule="constant")), network)
    for step in range(20):
        task.train_step(step)
    factors = masters(task.engine)
    base = [name.removesuffix("lora.a.weight") for name in factors if name.endswith("lora.a.weight")]
    grown = {f"{name}weight": factors[f"{name}lora.b.weight"] @ factors[f"{name}lora.a.weight"] for name in base}
    expected = {name: value + grown.get(name, 0.0) for name, value in before.items()}
    assert rounding_loses_it(expected, before)
    result = task.result
    for chunk in result:
        merge(chunk)
    assert error(received(result, tmp_path), expected, before) < 0.01


def test_a_frozen_base_that_bf16_holds_is_not_kept_twice(latents):
    """The released weights are bf16: nothing waits in the host's memory beside them."""
    network = start()
    for chunk in network:
        chunk.bfloat16().float()
        attach(chunk, LoRA(rank=2))
    assert flow_task(latents, pretrain_stage(), network).engine.masters.frozen == {}


def test_a_checkpoint_of_bf16_weights_still_starts_a_stage(tmp_path):
    save_model(build_chunks(MODEL, 8, 1, BF16, 3), tmp_path, CONFIG)
    chunks, _ = load_chunks(tmp_path, BF16, torch.float32)
    assert next(chunks[0].parameters()).dtype == torch.float32
    for name, value in masters(Engine(chunks, SMALL, BF16)).items():
        assert torch.equal(value, value.bfloat16().float()), name


def test_a_resumed_stage_goes_on_from_its_masters(latents, tmp_path):
    stage = pretrain_stage(optimizer=SMALL, steps=4)
    whole, first, second = (flow_task(latents, stage) for _ in range(3))
    fit(whole, tmp_path / "whole", 4, 4)
    fit(first, tmp_path / "cut", 2, 2)
    fit(second, tmp_path / "cut", 4, 2)
    expected, found = masters(whole.engine), masters(second.engine)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_fp32_training_hands_on_its_own_weights_without_a_copy(latents):
    layout = Parallel(precision="fp32")
    stage = pretrain_stage()
    data = FlowData(latents, latents.clips("train"), stage.size, stage.frames, stage.flow, stage.mask)
    task = FlowTask(build_chunks(MODEL, 8, 1, layout, 0, torch.float32), data, stage, layout, seed=1)
    assert task.result[0] is task.engine.chunks[0]
