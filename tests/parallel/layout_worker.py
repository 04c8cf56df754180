"""One process of the layout tests: `main(job.json, folder)`, started by forked.py.

The clips of a step are the same whatever the layout: data-parallel rank r takes its share of a batch drawn from the step alone.
A job runs its cases one after the other in the same processes (importing torch and megatron costs more than the cases).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from groups import grouped

from mugv.dit.model import MugDiT
from mugv.dit.sharding import full_shape, is_split, shard
from mugv.flow.path import sample_timesteps
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import MuonSettings, Optimizer, Parallel
from mugv.training import process_groups
from mugv.training.checkpoint_writer import CheckpointWriter
from mugv.training.engine import Engine, build_chunks
from mugv.training.objectives import FlowBatch, losses, pack, predict

MODEL = DiTModel(layers=4, hidden=48, heads=4, latent_channels=4)
ODD_HEADS = DiTModel(layers=4, hidden=36, heads=3, latent_channels=4)
TEXT = 16
CLIPS = 4


def draws(step: int, purpose: int) -> torch.Generator:
    """Of the tests alone: their clips, and how near to fp32's limit the gradients agree, must not move with the product's draws."""
    mixed = 1469598103934665603
    for value in (0, step, 0, purpose):
        mixed = ((mixed ^ (value + 0x9E3779B9)) * 1099511628211) % (1 << 63)
    return torch.Generator().manual_seed(mixed)


def clips(step: int, frames: int, side: int, purpose: int) -> FlowBatch:
    """Clips of a step, one of them with a given first frame (where it has more than one), texts of different lengths."""
    g = draws(step, purpose)
    shape = (CLIPS, 4, frames, side, side)
    noised = torch.ones(CLIPS, frames, dtype=torch.bool)
    noised[1, 0] = frames == 1
    mask = torch.arange(5)[None] < torch.tensor([[5], [2], [4], [3]])
    return FlowBatch(
        latent=torch.randn(shape, generator=g),
        noise=torch.randn(shape, generator=g),
        timestep=sample_timesteps(CLIPS, 1.0, g),
        noised=noised,
        text=torch.randn(CLIPS, 5, TEXT, generator=g),
        text_mask=mask,
        fps=torch.tensor([12.0, 24.0, 8.0, 30.0]),
    )


class Squared:
    """Mean flow loss of the step's clips, whatever their number in a micro-batch."""

    def __init__(self, total: float) -> None:
        self.total = total

    def forward(self, model, batch):
        return predict(model, batch)

    def loss(self, velocity, batch):
        return losses(velocity, batch).sum() / self.total, {}


def micro_batches(case: dict, step: int) -> list[FlowBatch]:
    """Four micro-batches over all data-parallel ranks: two of videos, two of images (other sizes), or packed ones that mix both."""
    rank, world = process_groups.data_rank()
    videos, images = clips(step, 3, 4, 1), clips(step, 1, 6, 2)
    halves = [b.select(slice(i, i + 2)) for b in (videos, images) for i in (0, 2)]
    if case.get("pack"):
        halves = [pack([halves[0], halves[2]]), pack([halves[1], halves[3]])]
    mine = halves[rank * len(halves) // world : (rank + 1) * len(halves) // world]
    return mine


def gradients(engine: Engine) -> dict[str, torch.Tensor]:
    """Full gradients of the last step by name, of what is trained (not under ZeRO, where ranks hold parts)."""

    from megatron.core import parallel_state

    group, size = parallel_state.get_tensor_model_parallel_group(), parallel_state.get_tensor_model_parallel_world_size()
    found = {}
    for chunk in engine.chunks:
        for name, parameter in chunk.named_parameters():
            if not parameter.requires_grad:
                continue
            value = parameter.main_grad.clone()
            if is_split(parameter):
                parts = [torch.empty_like(value) for _ in range(size)]
                dist.all_gather(parts, value, group=group)
                value = torch.cat(parts, parameter.partition_dim)
            found[name] = value
    return found


def fingerprints(engine: Engine) -> dict[str, str]:
    """Digest of every parameter that this rank holds; split ones carry the tensor rank in their name."""

    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    return {
        f"{name} of tensor rank {rank}" if is_split(p) else name: hashlib.sha256(p.detach().float().numpy().tobytes()).hexdigest()
        for chunk in engine.chunks
        for name, p in chunk.named_parameters()
    }


@torch.no_grad()
def fill_biases_and_norms(chunks: list[MugDiT]) -> None:
    """Biases start at zero and norm weights at one, which would hide that they are split or summed wrongly: draw them too."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
            value = torch.rand(full_shape(parameter), generator=generator)
            if "layernorm" in name and name.endswith("weight"):
                parameter.copy_(shard(1 + 0.2 * value, parameter))
            elif name.startswith("layers.") and name.endswith("bias"):
                parameter.copy_(shard(0.04 * value - 0.02, parameter))


class SGDEngine(Engine):
    """Plain SGD: Adam would turn rounding noise in gradients that are truly zero (cross-attention's key bias) into whole steps."""

    def _optimizer_config(self):
        config = super()._optimizer_config()
        config.optimizer, config.sgd_momentum = "sgd", 0.0
        return config


def run(case: dict, folder: Path) -> None:
    layout = Parallel(world=dist.get_world_size() if dist.is_initialized() else int(os.environ["WORLD_SIZE"]), **case["layout"])
    model = ODD_HEADS if case.get("odd_heads") else MODEL
    muon = MuonSettings(learning_rate=0.01) if case.get("muon") else None
    settings = Optimizer(learning_rate=1e-3, schedule="constant", clip_gradient=1.0, muon=muon)
    kind = SGDEngine if case.get("sgd") else Engine
    chunks = build_chunks(model, TEXT, 1, layout, 0)
    fill_biases_and_norms(chunks)
    engine = kind(chunks, settings, layout)
    objective = Squared(2 * CLIPS / process_groups.data_rank()[1])
    report: dict = {"losses": [], "norms": []}
    if case.get("load"):
        engine.load(Path(case["load"]))
    # Written by forked processes while the steps after it change the weights.
    writer = CheckpointWriter(engine, Path(case.get("save", folder)), asynchronous="save" in case)
    rate = 0.1 if case.get("sgd") else 1e-3
    first = case.get("first_step", 0)
    for step in range(first, first + case.get("steps", 3)):
        metrics = engine.step(micro_batches(case, step), objective, rate)
        report["losses"].append(metrics["loss"])
        report["norms"].append(metrics["gradient_norm"])
        if step == first and case.get("sgd"):
            # The buffers keep the (clipped) gradients until the next step.
            torch.save(gradients(engine), folder / f"{case['name']}-{dist.get_rank()}.pt")
        if step == case.get("save_after"):
            writer.save(step + 1)
        writer.poll()
    writer.poll(wait=True)
    engine.sync_parameters()
    report["parameters"] = fingerprints(engine)
    report["layers"] = sorted(int(i) for chunk in engine.chunks for i in chunk.layers)
    (folder / f"{case['name']}-{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.barrier()


def main(job: Path, folder: Path) -> None:

    torch.set_num_threads(1)
    for case in grouped(json.loads(job.read_text())):
        run(case, folder)
