"""A task that asks for a GPU computes on it: one place decides on the device, and what meets over a network fits its tensors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mugv import precision
from mugv.errors import UserError
from mugv.stages import encode, placement, train_vae
from mugv.training.process_groups import BACKENDS
from mugv.vae.model import Posterior

ROOT = Path(__file__).resolve().parents[2] / "mugv"
ASKS = {"precision.py", "dit/megatron_cpu.py", "dit/megatron_jit.py"}
"""The place that decides, and what binds megatron's own CUDA names."""


def test_nothing_else_asks_whether_there_is_a_gpu() -> None:
    found = {str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py") if "cuda.is_available" in p.read_text()}
    assert found == ASKS


def test_no_network_is_autocast_for_a_device_that_was_written_down() -> None:
    written = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py") if re.search(r'autocast\(\s*"|\.to\("cuda', p.read_text())]
    assert written == []


def test_the_stages_of_the_vae_move_it_to_the_device() -> None:
    """Both held eight GPUs and computed on the CPU."""
    for module in (train_vae, encode):
        assert ".to(here())" in Path(str(module.__file__)).read_text()


def test_nccl_gets_cuda_tensors_alone() -> None:
    assert BACKENDS["cpu"] == "gloo"
    assert dict(part.split(":") for part in BACKENDS["cuda"].split(",")) == {"cpu": "gloo", "cuda": "nccl"}


def test_a_sample_of_a_posterior_on_a_gpu_is_drawn_by_the_cpu_s_generator() -> None:
    with FakeTensorMode():
        moments = torch.empty(1, 2, 1, 4, 4, device="cuda")
        drawn = Posterior(moments, moments).sample(torch.Generator())
        assert drawn.device.type == "cuda"


@pytest.mark.parametrize(("gpus", "environment"), [(0, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}), (8, {})])
def test_a_task_without_gpus_and_a_laptop_need_none(gpus: int, environment: dict[str, str]) -> None:
    placement.check_gpus(gpus, environment)


def test_a_pod_that_holds_gpus_it_cannot_see_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "here", lambda: "cpu")
    with pytest.raises(UserError, match=r"this pod asked for 8 GPUs and torch sees none: give resources\.image_train a CUDA build"):
        placement.check_gpus(8, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    monkeypatch.setattr(placement, "here", lambda: "cuda")
    placement.check_gpus(8, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})


def test_the_device_is_the_one_that_torch_has() -> None:
    assert precision.here() == ("cuda" if torch.cuda.is_available() else "cpu")
