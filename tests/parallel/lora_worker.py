"""One process of tests/parallel/test_lora_layouts.py: `main(cases.json, folder)`, adapters trained under each case's layout."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from groups import grouped
from layout_worker import CLIPS, MODEL, TEXT, SGDEngine, Squared, fill_biases_and_norms, fingerprints, gradients, micro_batches

from mugv.dit.lora import attach, is_adapter
from mugv.dit.sharding import full_shape, shard
from mugv.recipe.schema import LoRA, Optimizer, Parallel
from mugv.training import process_groups
from mugv.training.adapters import save_adapter
from mugv.training.engine import Engine, build_chunks

SETTINGS = LoRA(rank=4, alpha=8.0)


@torch.no_grad()
def fill_factors(chunks) -> None:
    """B is zero at first, which would hide every gradient of A."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if name.endswith(".lora.b.weight"):
                generator = torch.Generator().manual_seed(len(name))
                parameter.copy_(shard(torch.randn(full_shape(parameter), generator=generator) * 0.1, parameter))


def run(case: dict, folder: Path) -> None:
    layout = Parallel(world=int(os.environ["WORLD_SIZE"]), **case["layout"])
    chunks = build_chunks(MODEL, TEXT, 1, layout, 0)
    fill_biases_and_norms(chunks)
    for chunk in chunks:
        attach(chunk, SETTINGS, seed=1)
    fill_factors(chunks)
    engine = SGDEngine(chunks, Optimizer(learning_rate=1e-3), layout)
    before = fingerprints(engine)
    objective = Squared(2 * CLIPS / process_groups.data_rank()[1])
    metrics = [engine.step(micro_batches(case, 0), objective, 0.1)]
    found = gradients(engine)
    metrics += [engine.step(micro_batches(case, step), objective, 0.1) for step in (1, 2)]
    after = fingerprints(engine)
    report = {
        "losses": [m["loss"] for m in metrics],
        "norms": [m["gradient_norm"] for m in metrics],
        "parameters": after,
        "base_moved": [name for name in after if not is_adapter(name) and after[name] != before[name]],
    }
    torch.save(found, folder / f"{case['name']}-{dist.get_rank()}.pt")
    (folder / f"{case['name']}-{dist.get_rank()}.json").write_text(json.dumps(report))
    save_adapter(chunks, folder / case["name"], SETTINGS)


def resume(case: dict, folder: Path) -> None:
    """Adam, its state split over the ranks: three steps, a checkpoint, one more step, and that step again from the checkpoint."""
    layout = Parallel(world=int(os.environ["WORLD_SIZE"]), **case["layout"])

    def start() -> Engine:
        chunks = build_chunks(MODEL, TEXT, 1, layout, 0)
        for chunk in chunks:
            attach(chunk, SETTINGS, seed=1)
        return Engine(chunks, Optimizer(learning_rate=1e-3, epsilon=1e-3), layout)

    engine, objective = start(), Squared(2 * CLIPS / process_groups.data_rank()[1])
    losses = [engine.step(micro_batches(case, step), objective, 1e-2)["loss"] for step in range(3)]
    engine.save(folder / f"{case['name']}-checkpoint")
    continued = engine.step(micro_batches(case, 3), objective, 1e-2)["loss"]
    again = start()
    again.load(folder / f"{case['name']}-checkpoint")
    resumed = again.step(micro_batches(case, 3), objective, 1e-2)["loss"]
    report = {"losses": losses, "continued": continued, "resumed": resumed}
    (folder / f"{case['name']}-{dist.get_rank()}.json").write_text(json.dumps(report))


def main(cases: Path, folder: Path) -> None:

    torch.set_num_threads(1)
    for case in grouped(json.loads(cases.read_text())):
        (resume if case["name"].startswith("adam") else run)(case, folder)
