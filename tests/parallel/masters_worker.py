"""One process of tests/parallel/test_masters_layouts.py: `main(cases.json, folder)`, bf16 training that is handed on, under each layout."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from groups import grouped
from layout_worker import CLIPS, MODEL, TEXT, Squared, fill_biases_and_norms, micro_batches

from mugv.dit.lora import attach
from mugv.recipe.schema import LoRA, MuonSettings, Optimizer, Parallel
from mugv.training import process_groups
from mugv.training.engine import Engine, build_chunks
from mugv.training.model_io import load_chunks, save_model

SETTINGS = LoRA(rank=4, alpha=8.0)


def run(case: dict, folder: Path) -> None:
    layout = Parallel(world=int(os.environ["WORLD_SIZE"]), precision="bf16", **case["layout"])
    chunks = build_chunks(MODEL, TEXT, 1, layout, 0, torch.float32)
    fill_biases_and_norms(chunks)
    if case.get("lora"):
        for chunk in chunks:
            attach(chunk, SETTINGS, seed=1)
    muon = MuonSettings(learning_rate=1e-6) if case.get("muon") else None
    engine = Engine(chunks, Optimizer(learning_rate=1e-6, schedule="constant", muon=muon), layout)
    average = [value.clone() for value in engine.masters.values()]
    objective = Squared(2 * CLIPS / process_groups.data_rank()[1])
    out = folder / case["name"]
    if dist.get_rank() == 0:
        for part in ("before", "state", "handed", "average"):
            (out / part).mkdir(parents=True)
    dist.barrier()
    config = {"model": MODEL.model_dump(), "text": {"width": TEXT}, "width_divisor": 1}
    save_model(engine.network(), out / "before", config)
    for step in range(3):
        engine.step(micro_batches(case, step), objective, 1e-6)
        torch._foreach_lerp_(average, engine.masters.values(), 0.5)
    engine.save(out)
    save_model(engine.network(), out / "handed", config)
    averaged = engine.masters.network(average)
    save_model(averaged, out / "average", config)
    again = engine.masters.shares_of(averaged)
    kept = all(torch.equal(a, b) for a, b in zip(average, again, strict=True))
    lossless = case.get("lora") or starts_from_them(out / "handed", layout)
    (folder / f"{case['name']}-{dist.get_rank()}.json").write_text(json.dumps({"average_kept": kept, "lossless": lossless}))
    dist.barrier()


def starts_from_them(folder: Path, layout: Parallel) -> bool:
    """Whether the next stage's optimizer holds what was published, to the bit."""
    chunks, _ = load_chunks(folder, layout, torch.float32)
    expected = [p.detach().clone() for chunk in chunks for p in chunk.parameters()]
    found = Engine(chunks, Optimizer(learning_rate=1e-6), layout).network()
    return all(torch.equal(p, e) for p, e in zip([p for chunk in found for p in chunk.parameters()], expected, strict=True))


def main(job: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    for case in grouped(json.loads(job.read_text())):
        run(case, folder)
