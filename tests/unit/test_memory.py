"""The memory model against real networks: bytes that autograd keeps, bytes of weights and optimizer, and what pipelines hold."""

from __future__ import annotations

import itertools

import pytest
import torch
from saved_bytes import LiveBytes, saved_bytes

from mugv.dit.sequence import TokenLayout
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Optimizer, Parallel
from mugv.training.engine import Engine, all_parameters, build_model
from mugv.training.flops import Clip, dit_parameters
from mugv.training.memory import (
    MicroBatch,
    Shapes,
    block_bytes,
    block_parameters,
    blocks_in_flight,
    first_bytes,
    last_bytes,
    rank_parameters,
    shared_bytes,
    stage_memory,
    step_memory,
)

SMALL = DiTModel(layers=3, hidden=144, heads=6, latent_channels=4)
TEXT = 32
PUBLISHED = DiTModel()
CLIP_720P = Clip(50_402, 300)


def clip_inputs(frames: int, size: int, words: int, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    latent = torch.randn(count, 4, frames, size, size, generator=g)
    text = torch.randn(count, words, TEXT, generator=g).to(dtype)
    mask = torch.ones(count, words, dtype=torch.bool)
    return latent, torch.full((count,), 500.0), text, mask, torch.full((count,), 24.0), torch.ones(count, frames, dtype=torch.bool)


def measured(layout: Parallel, frames: int, size: int, words: int, count: int) -> int:
    net = build_model(SMALL, TEXT, 1, layout, 0).train()
    inputs = clip_inputs(frames, size, words, count, torch.bfloat16 if layout.precision == "bf16" else torch.float32)
    target = torch.zeros(inputs[0].shape)
    rotation = TokenLayout(((frames, size // 2, size // 2),)).rotation(SMALL.head_dim, "cpu")  # kept by its cache
    return saved_bytes(net, lambda: (net(*inputs) - target).square().mean(), [rotation])


def predicted(layout: Parallel, frames: int, size: int, words: int, count: int) -> int:
    shapes = Shapes(SMALL, TEXT, layout, MicroBatch.batched(Clip(frames * size * size // 4 + 2, words), count), gpu=False)
    return SMALL.layers * block_bytes(shapes, layout.recompute) + first_bytes(shapes) + last_bytes(shapes) + shared_bytes(shapes)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_activations_are_within_5_percent_of_what_autograd_keeps(recompute: str, precision: str, count: int) -> None:
    layout = Parallel(recompute=recompute, precision=precision)
    for shape in ((3, 16, 7), (2, 8, 40)):
        assert predicted(layout, *shape, count) == pytest.approx(measured(layout, *shape, count), rel=0.05)


def test_packed_clips_are_counted_together() -> None:
    net = build_model(SMALL, TEXT, 1, Parallel(), 0).train()
    first, second = clip_inputs(3, 16, 9, 1, torch.float32), clip_inputs(1, 8, 9, 1, torch.float32)
    latents, masks = [first[0][0], second[0][0]], [first[5][0], second[5][0]]
    timestep, text, words, fps = (torch.cat([first[i], second[i]]) for i in (1, 2, 3, 4))
    layout = TokenLayout(((3, 8, 8), (1, 4, 4)))

    def loss() -> torch.Tensor:
        return sum((v - torch.zeros_like(v)).square().sum() for v in net(latents, timestep, text, words, fps, masks))

    shapes = Shapes(SMALL, TEXT, Parallel(), MicroBatch.packed([Clip(194, 9), Clip(18, 9)]), gpu=False)
    ends = first_bytes(shapes) + last_bytes(shapes) + shared_bytes(shapes)
    found = saved_bytes(net, loss, [layout.rotation(SMALL.head_dim, "cpu")])
    assert SMALL.layers * block_bytes(shapes, "none") + ends == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_peak_of_forward_and_backward_is_within_5_percent(recompute: str, precision: str) -> None:
    """Of a rank's activations and temporaries, gradients and weights apart, as in training where both lie in megatron's buffers."""
    layout = Parallel(recompute=recompute, precision=precision)
    net = build_model(SMALL, TEXT, 1, layout, 0).train()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    inputs = clip_inputs(3, 32, 7, 1, torch.bfloat16 if precision == "bf16" else torch.float32)
    with LiveBytes([t for p in net.parameters() for t in (p, p.grad)]) as live:
        net(*inputs).square().mean().backward()
    shapes = Shapes(SMALL, TEXT, layout, MicroBatch.batched(Clip(3 * 16 * 16 + 2, 7), 1), gpu=False)
    found = stage_memory(shapes, 1, 0)
    assert found.activations + found.transient == pytest.approx(live.peak, rel=0.05)


@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("pipeline", [1, 2, 4])
def test_parameters_of_all_ranks_are_the_network_and_its_replicas(tensor: int, pipeline: int) -> None:
    layout = Parallel(world=tensor * pipeline, tensor=tensor, pipeline=pipeline)
    held = sum(rank_parameters(PUBLISHED, 4096, layout, stage) for stage in range(pipeline)) * tensor
    replicated_block = 11 * 3456 + 4 * 72
    ends = dit_parameters(PUBLISHED, 4096) - 56 * block_parameters(PUBLISHED)
    assert held == dit_parameters(PUBLISHED, 4096) + (tensor - 1) * (56 * replicated_block + ends)


def test_weights_and_optimizer_of_a_bf16_rank() -> None:
    shapes = Shapes(PUBLISHED, 4096, Parallel(precision="bf16"), MicroBatch.batched(CLIP_720P, 1))
    plain = stage_memory(shapes, 1, 0)
    count = 10_830_321_984
    assert (plain.weights, plain.gradients, plain.optimizer) == (2 * count, 4 * count, 12 * count)
    sharded = Parallel(world=8, precision="bf16", distributed_optimizer=True)
    assert stage_memory(Shapes(PUBLISHED, 4096, sharded, shapes.micro), 1, 0).optimizer == 12 * count // 8
    compared = stage_memory(shapes, 1, 0, copies=2)
    assert compared.total - plain.total == compared.copies == 2 * count
    assert stage_memory(shapes, 1, 0, average=True).optimizer == 16 * count
    assert stage_memory(Shapes(PUBLISHED, 4096, sharded, shapes.micro), 1, 0, average=True).optimizer == 16 * count // 8
    assert sum(plain.parts().values()) == plain.total


def simulated_in_flight(pipeline: int, virtual: int, micro_batches: int, stage: int) -> int:
    """Chunks held at the fullest moment, by playing megatron's schedule: warm-up forwards, then forward and backward in turn."""
    total = micro_batches * virtual
    warm_up = pipeline - stage - 1 if virtual == 1 else 2 * (pipeline - stage - 1) + (virtual - 1) * pipeline
    steps = [1] * min(warm_up, total)
    remaining = total - len(steps)
    steps += [1, -1] * remaining + [-1] * len(steps)
    return max(itertools.accumulate(steps))


@pytest.mark.parametrize(("pipeline", "virtual", "micro_batches"), [(1, 1, 3), (4, 1, 2), (4, 1, 16), (4, 2, 8), (2, 7, 4), (4, 2, 4)])
def test_pipelines_hold_what_their_schedule_has_not_sent_back(pipeline: int, virtual: int, micro_batches: int) -> None:
    layout = Parallel(world=pipeline, pipeline=pipeline, virtual_pipeline=virtual)
    for stage in range(pipeline):
        expected = simulated_in_flight(pipeline, virtual, micro_batches, stage) * (56 // (pipeline * virtual))
        assert blocks_in_flight(layout, 56, micro_batches, stage) == expected


def test_each_axis_of_parallelism_makes_a_rank_smaller() -> None:
    def total(**keys: object) -> int:
        layout = Parallel(world=64, precision="bf16", **keys)
        return step_memory(Shapes(PUBLISHED, 4096, layout, MicroBatch.batched(CLIP_720P, 1)), 8).total

    assert total(tensor=2) < total()
    assert total(tensor=2, sequence_parallel=True) < total(tensor=2)
    assert total(context=2) < total()
    assert total(recompute="full") < total(recompute="selective") < total()
    assert total(distributed_optimizer=True) < total()
    assert total(pipeline=4, virtual_pipeline=2) > total(pipeline=4), "interleaving holds more micro-batches"


def test_the_published_layout_does_not_fit_80_gb_without_recompute() -> None:
    """TP4 PP4 SP without recomputation (paper 5, the README's 64 nodes): one 720p clip is already more than a card holds."""
    layout = Parallel(world=512, tensor=4, pipeline=4, sequence_parallel=True, distributed_optimizer=True, precision="bf16")
    memory = step_memory(Shapes(PUBLISHED, 4096, layout, MicroBatch.batched(CLIP_720P, 1)), 4)
    assert memory.activations > 80e9


def test_engine_allocates_the_weights_gradients_and_moments_that_are_counted() -> None:
    layout = Parallel(precision="fp32")
    engine = Engine(build_model(SMALL, TEXT, 1, layout, 0), Optimizer(learning_rate=1e-3), layout)
    for parameter in all_parameters(engine.chunks):
        parameter.main_grad.fill_(1e-3)
    engine.optimizer.step()
    found = stage_memory(Shapes(SMALL, TEXT, layout, MicroBatch.batched(CLIP_720P, 1)), 1, 0)
    assert found.weights == sum(p.nbytes for p in all_parameters(engine.chunks))
    gradients = sum(buffer.grad_data.nbytes for buffer in engine.wrapped[0].buffers)
    assert found.gradients == pytest.approx(gradients, rel=0.01), "buffers may be padded"
    states = engine.optimizer.optimizer.state.values()
    assert found.optimizer == sum(value.nbytes for state in states for value in state.values() if value.ndim)
