"""The DiT's benchmarks run: ours equals plain PyTorch, and the GPU one executes on CPU and refuses in one line without CUDA."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import dit_gpu, dit_step
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel


def test_blocks_are_plain_pytorch_ones_in_outputs_and_gradients() -> None:
    pair = dit_step.make_pair(512, 48, 2, 2)
    assert dit_step.assert_equal(pair) <= 1e-5
    pair.plain[1].table.data[2] += 0.1
    with pytest.raises(SystemExit, match="ours and plain differ"):
        dit_step.assert_equal(pair)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_gpu_benchmark_executes_on_cpu(recompute: str) -> None:
    layout = Parallel(precision="bf16", recompute=recompute)
    setting = dit_gpu.Setting("cpu", DiTModel(hidden=48, heads=2), (2, 4, 4), 5, layout, 1)
    rows = dict(dit_gpu.measure(setting, 2))
    assert rows["blocks, width, recompute"] == f"2, 48, {recompute}"
    assert rows["tokens, text tokens"] == "10, 5"
    assert "peak memory measured" not in rows


def test_gpu_benchmark_without_cuda_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["dit_gpu"])
    with pytest.raises(SystemExit, match=r"^error: benchmarks.dit_gpu needs a CUDA device; [^\n]+$"):
        dit_gpu.main()


def test_prediction_counts_every_block_alike() -> None:
    setting = dit_gpu.Setting("cuda", DiTModel(), (14, 90, 160), 300, Parallel(precision="bf16"), 1)
    assert setting.clip == (50_402, 300)
    first, second, third = (setting.memory(n) for n in (1, 2, 3))
    assert third - second == second - first > 8e9
