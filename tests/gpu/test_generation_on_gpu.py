"""Generation on a GPU: bf16 by default, as the published script, and nearly the clip of fp32 networks."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from generation_tools import write_checkpoint

from mugv.generation import Generator, Given
from mugv.generation.room import free_memory, tiling_for, vae_bytes

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("networks"))


def test_networks_are_on_the_gpu_in_bf16(folders):
    generator = Generator.open(*folders)
    for network in (generator.model, generator.vae):
        parameter = next(network.parameters())
        assert (parameter.device.type, parameter.dtype) == ("cuda", torch.bfloat16)
    assert torch.get_float32_matmul_precision() == "high"


def test_bf16_makes_nearly_the_clip_of_fp32(folders):
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, 32, 48, 3), dtype=np.uint8)
    exact, half = (Generator.open(*folders, precision=p).generate(["a"], given=Given(first=picture)) for p in ("fp32", "bf16"))
    assert np.abs(exact.astype(int) - half).mean() < 2


def test_frames_that_fit_the_gpu_are_not_cut(folders):
    generator = Generator.open(*folders)
    assert vae_bytes(generator.vae, (512, 512), (512, 512)) < free_memory(generator.device)
    assert tiling_for("auto", generator.vae, (512, 512), 1) is None
