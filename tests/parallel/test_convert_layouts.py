"""Eight processes: released weights, loaded under any layout and saved from there, come back as the same bytes."""

import pytest
import torch
from convert_worker import EXPANSION, LAYOUTS, NARROW, WIDE
from forked import launch
from safetensors.torch import save_file

from mugv.dit.expand import expand
from mugv.dit.release import released_shapes
from mugv.recipe.schema import Parallel
from mugv.training.convert import convert, open_distributed
from mugv.training.engine import build_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("convert")
    g = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=g) for name, shape in released_shapes(NARROW, 16).items()}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        save_file({n: t.to(dtype) for n, t in state.items()}, base / f"{name}.safetensors", metadata={"format": "pt"})
        convert(base / f"{name}.safetensors", base / name)
    launch("convert_worker", [(8, [base])])
    return base


@pytest.mark.parametrize("layout", LAYOUTS)
def test_appendix_b9_released_file_to_megatron_and_back_is_bit_exact(folder, layout):
    convert(folder / layout, folder / f"{layout}.safetensors")
    precision = "bf16" if layout.endswith("bf16") else "fp32"
    assert (folder / f"{layout}.safetensors").read_bytes() == (folder / f"{precision}.safetensors").read_bytes()


def test_expansion_under_tensor_and_pipeline_parallelism_gives_the_weights_of_one_process(folder):
    one = build_model(WIDE, 16, 1, Parallel(), 0)
    expand(open_distributed(folder / "fp32" / "model"), one, EXPANSION)
    parts = open_distributed(folder / "wide" / "model")
    expected = dict(one.named_parameters())
    assert set(parts) == set(expected)
    assert all(torch.equal(parts[name], value) for name, value in expected.items())
