"""One process of tests/parallel/test_memory_layouts.py: bytes that autograd keeps on this rank, and the memory model's figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from groups import grouped
from saved_bytes import saved_bytes

from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel
from mugv.training.engine import build_model
from mugv.training.flops import Clip
from mugv.training.memory import MicroBatch, Shapes, stage_memory

MODEL = DiTModel(layers=4, hidden=144, heads=6, latent_channels=4)
TEXT, WORDS, FRAMES, SIZE = 32, 9, 3, 16


def run(case: dict) -> dict[str, int]:
    from megatron.core import parallel_state

    layout = Parallel(world=2, **case)
    part = build_model(MODEL, TEXT, 1, layout, 0).train()
    shapes = Shapes(MODEL, TEXT, layout, MicroBatch.batched(Clip(FRAMES * SIZE * SIZE // 4 + 2, WORDS), 1), gpu=False)
    dtype, g = part.config.params_dtype, torch.Generator().manual_seed(0)
    latent, noised = torch.randn(1, 4, FRAMES, SIZE, SIZE, generator=g), torch.ones(1, FRAMES, dtype=torch.bool)
    text, mask = torch.randn(1, WORDS, TEXT, generator=g).to(dtype), torch.ones(1, WORDS, dtype=torch.bool)
    if not part.pre_process:
        rows = shapes.message // (shapes.width * shapes.value)
        part.set_input_tensor(torch.randn(rows, 1, MODEL.hidden, dtype=dtype, requires_grad=True))
    rotation = part._layout(latent).rotation(MODEL.head_dim, "cpu")  # kept by its cache

    def loss() -> torch.Tensor:
        out = part(latent, torch.full((1,), 500.0), text, mask, torch.full((1,), 24.0), noised)
        return (out - latent).square().mean() if part.post_process else out.sum()

    measured = saved_bytes(part, loss, [rotation])
    found = stage_memory(shapes, 1, parallel_state.get_pipeline_model_parallel_rank())
    return {"measured": measured, "predicted": found.activations}


def main(job: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    reports = {case["name"]: run(case["layout"]) for case in grouped(json.loads(job.read_text()))}
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(reports))
