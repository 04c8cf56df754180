"""The DiT's benchmarks run: ours equals plain PyTorch, and the GPU one executes on CPU and refuses in one line without CUDA."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import dit_step
from benchmarks.gpu import dit
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
    setting = dit.Setting("cpu", DiTModel(hidden=48, heads=2), (2, 4, 4), 5, layout, 1)
    found = dit.measure(setting, 2)
    assert (found["blocks"], found["tokens"]) == (2, 10)
    assert all(math.isfinite(value) for value in found.values())
    assert f"| width, text tokens, recompute | 48, 5, {recompute} |" in dit.table(setting, found)


def test_mfu_is_never_a_share_of_another_card_s_peak_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert dit.card_peak("cuda") == ("H200", 989e12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    assert dit.card_peak("cuda") == ("H100, in place of NVIDIA L4", 989e12)


def test_gpu_benchmark_without_cuda_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["dit"])
    with pytest.raises(SystemExit, match=r"^error: benchmarks.gpu.dit needs a CUDA device; [^\n]+$"):
        dit.main()


def test_prediction_counts_every_block_alike() -> None:
    setting = dit.Setting("cuda", DiTModel(), (14, 90, 160), 300, Parallel(precision="bf16"), 1)
    assert setting.clip == (50_402, 300)
    first, second, third = (setting.memory(n) for n in (1, 2, 3))
    assert third - second == second - first > 8e9
