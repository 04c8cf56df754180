"""The memory model against torch.cuda.max_memory_allocated, and the GPU benchmark on a small size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.dit import Setting, make_ready, measure, measure_memory
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)


def setting(recompute: str, attention: str = "auto") -> Setting:
    """Large enough that kernels' fixed workspaces do not count: 12,602 tokens, width 1152."""
    layout = Parallel(precision="bf16", recompute=recompute, attention=attention)
    return Setting("cuda", DiTModel(hidden=1152, heads=16), (14, 30, 120), 300, layout, 1)


@pytest.mark.parametrize("attention", ["auto", "sdpa"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_peak_of_blocks_is_within_5_percent(recompute: str, attention: str) -> None:
    wanted, blocks = setting(recompute, attention), 6
    found = measure_memory(wanted, blocks, *make_ready(wanted, blocks))
    assert found["predicted GB"] == pytest.approx(found["measured GB"], rel=0.05)


def test_benchmark_s_figures_contradict_no_limit_of_the_card() -> None:
    found = measure(setting("none"), 2)
    assert 0 < found["MFU %"] < 100
    assert found["measured GB"] > 0
