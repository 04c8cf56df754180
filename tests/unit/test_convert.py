"""The published single file to a checkpoint folder and back: every tensor in its place, bit for bit, in bounded memory."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from release_tools import SMALL, TEXT, released_state, write_release
from released_network import velocity
from safetensors.torch import load_file
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.dit.release import infer_size, own_shapes, released_shapes, rules, to_ours, to_released
from mugv.errors import UserError
from mugv.recipe.models import DiTModel
from mugv.training.convert import Options, convert, open_distributed

SIZES = {"debug": 288, "1b": 1152, "2b": 1728, "4b": 2304, "10b": 3456, "18b": 4608}
COUNTS = {"debug": 76_834_272, "1b": 1_208_059_968, "2b": 2_712_853_632, "4b": 4_818_161_856, "10b": 10_830_321_984, "18b": 19_244_540_352}


@pytest.mark.parametrize("size", SIZES)
def test_appendix_b1_every_published_size_has_its_parameter_count(size):
    shapes = released_shapes(DiTModel(hidden=SIZES[size], heads=SIZES[size] // 72), 4096)
    assert sum(math.prod(shape) for shape in shapes.values()) == COUNTS[size]


def test_appendix_b2_the_full_size_network_has_exactly_the_converters_names_and_shapes():
    """On the meta device: a strict load of every tensor that the converter would write for the published file."""
    from mugv.dit.config import make_config
    from mugv.dit.model import MugDiT
    from mugv.recipe.schema import Parallel
    from mugv.training.process_groups import initialise

    initialise(Parallel())
    with torch.device("meta"):
        model = MugDiT(make_config(DiTModel(), 4096, 1, Parallel()))
        state = {name: torch.empty(shape) for name, shape in own_shapes(DiTModel(), 4096).items()}
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == own_shapes(DiTModel(), 4096)
    left = model.load_state_dict(state, strict=False, assign=True)
    assert [n for n in left.missing_keys if "_extra_state" not in n] == left.unexpected_keys == []


def test_appendix_b2_a_released_file_loads_and_computes_what_the_published_network_does(tmp_path):
    """One wrong row of a fused projection, one swapped norm or axis and the two networks part."""
    from mugv.training.model_io import load_dit

    state = {n: t * 0.3 for n, t in released_state().items()}
    convert(write_release(tmp_path / "dit.pt", state), tmp_path / "dit")
    model, _ = load_dit(tmp_path / "dit")
    g = torch.Generator().manual_seed(1)
    latent, text = torch.randn(4, 3, 4, 6, generator=g), torch.randn(5, TEXT, generator=g)
    noised = torch.tensor([False, True, True])
    with torch.no_grad():
        ours = model(
            latent[None],
            torch.tensor([700.0]),
            text[None],
            torch.ones(1, 5, dtype=torch.bool),
            torch.tensor([12.0]),
            noised[None],
        )[0]
        published = velocity(state, SMALL.heads, latent, 700.0, text, 12.0, noised)
    assert float(published.abs().max()) > 0.1
    assert float((ours - published).abs().max()) < 2e-5 * float(published.abs().max())


def test_rows_of_a_fused_projection_are_cut_by_heads():
    rule = next(r for r in rules(SMALL, TEXT) if r.ours.endswith("linear_kv.bias"))
    names = torch.arange(2 * 48).reshape(2, 4, 12)  # kv, heads, d
    ours = to_ours(rule, names.flatten(), 4).reshape(4, 2, 12)
    assert torch.equal(ours[1, 0], names[0, 1])
    assert torch.equal(ours[3, 1], names[1, 3])
    assert torch.equal(to_released(rule, ours, 4), names.flatten())


def test_size_and_heads_are_read_from_the_tensors():
    for model in (SMALL, DiTModel(), DiTModel(learned_sigma=False, layers=3, hidden=144, heads=2, mlp_ratio=2)):
        assert infer_size(released_shapes(model, 64)) == (model, 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_comes_back_bit_for_bit(tmp_path, suffix, dtype):
    state = released_state(dtype=dtype)
    source = write_release(tmp_path / f"a{suffix}", state)
    convert(source, tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / f"b{suffix}")
    if suffix == ".safetensors":
        assert (tmp_path / "b.safetensors").read_bytes() == source.read_bytes()
    else:
        back = torch.load(tmp_path / "b.pt", weights_only=True)
        assert list(back) == list(state)
        assert all(back[n].dtype == dtype and torch.equal(back[n], state[n]) for n in state)


def test_tensors_that_are_views_of_one_storage_are_read_in_their_own_order(tmp_path):
    state = released_state()
    base = torch.randn(200, 48).T
    state["blocks.0.mlp.fc1.weight"] = base[:, 8:].T
    state["blocks.1.mlp.fc2.weight"] = base[:, :192]
    convert(write_release(tmp_path / "a.pt", state), tmp_path / "folder")
    stored = open_distributed(tmp_path / "folder" / "model")
    assert torch.equal(stored["layers.0.mlp.linear_fc1.weight"], state["blocks.0.mlp.fc1.weight"])
    assert torch.equal(stored["layers.1.mlp.linear_fc2.weight"], state["blocks.1.mlp.fc2.weight"])


def test_types_change_only_when_asked(tmp_path):
    source = write_release(tmp_path / "a.safetensors", released_state())
    convert(source, tmp_path / "folder", Options(dtype="bf16"))
    convert(tmp_path / "folder", tmp_path / "b.safetensors")
    expected = {name: tensor.bfloat16() for name, tensor in load_file(source).items()}
    back = load_file(tmp_path / "b.safetensors")
    assert all(back[n].dtype == torch.bfloat16 and torch.equal(back[n], expected[n]) for n in expected)


def test_config_of_a_published_file_has_its_latent_norm_and_size(tmp_path):
    model = DiTModel(layers=1, hidden=72, heads=1)
    convert(write_release(tmp_path / "dit.pt", released_state(model, 8)), tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert DiTModel(**config["model"]) == model
    assert (config["text"]["width"], config["size"], config["frames"], config["fps"]) == (8, [1280, 720], 105, 30.0), "it stands upright"
    assert config["usage"] | {"sampler": None} == {
        "prompt_suffix": " aesthetic score: 6.0.",
        "negative": None,
        "file_fps": 20.0,
        "sampler": None,
    }
    assert config["latent_norm"]["shift"][9] == 0.3046875
    assert config["latent_norm"]["scale"][23] == 1.5881


def test_null_text_of_the_training_code_is_left_out_and_reported(tmp_path):
    state = {**released_state(), "y_embedder.y_embedding": torch.zeros(3, TEXT)}
    report = convert(write_release(tmp_path / "a.pt", state), tmp_path / "folder")
    assert list(report.exceptions) == ["y_embedder.y_embedding"]
    assert "y_embedder.y_embedding" in (tmp_path / "folder" / "config.json").read_text()


def test_the_command_says_what_it_wrote_and_what_it_left_out(tmp_path):
    state = {**released_state(), "ema.step": torch.zeros(1)}
    source = write_release(tmp_path / "a.pt", state)
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), "--allow", "ema.step", "--dtype", "bf16"])
    assert result.exit_code == 0, result.output
    assert "ema.step: left out (allowed)" in result.stdout
    count = sum(t.numel() for t in state.values()) - 1
    assert f"wrote {tmp_path / 'out'}: {count:,} parameters in {len(state) - 1} tensors" in result.stdout


def test_a_missing_norm_that_is_allowed_becomes_the_identity(tmp_path):
    state = released_state(dtype=torch.bfloat16)
    del state["blocks.0.cross_attn.q_norm.weight"]
    source = write_release(tmp_path / "a.pt", state)
    report = convert(source, tmp_path / "folder", Options(allow=("blocks.0.cross_attn.q_norm.weight",)))
    stored = open_distributed(tmp_path / "folder" / "model")["layers.0.cross_attention.q_layernorm.weight"]
    assert torch.equal(stored, torch.ones(12, dtype=torch.bfloat16))
    assert report.exceptions == {"blocks.0.cross_attn.q_norm.weight": "missing: set to the identity"}


def test_a_weight_that_is_missing_cannot_be_allowed(tmp_path):
    state = released_state()
    del state["blocks.1.mlp.fc2.weight"]
    source = write_release(tmp_path / "a.pt", state)
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc2\.weight is missing"):
        convert(source, tmp_path / "folder", Options(allow=("blocks.1.mlp.fc2.weight",)))


MEASURE = """
import sys
from pathlib import Path
from mugv.training.convert import convert
peak = lambda: 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
convert(Path(sys.argv[1]), Path(sys.argv[2]))  # a small one first: code and buffers are in memory
before = peak()
convert(Path(sys.argv[3]), Path(sys.argv[4]))
print(peak() - before)
"""


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_memory_does_not_grow_with_the_network(tmp_path, suffix):
    """160 MB in tensors of at most 5.5 MB, both ways."""
    state = released_state(DiTModel(layers=10, hidden=480, heads=8, latent_channels=4))
    big, small = write_release(tmp_path / f"big{suffix}", state), write_release(tmp_path / f"small{suffix}", released_state())
    largest = max(t.nbytes for t in state.values())
    assert sum(t.nbytes for t in state.values()) > 25 * largest

    def growth(*paths: Path) -> int:
        return int(subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True, check=True).stdout)

    assert growth(small, tmp_path / "small", big, tmp_path / "big") < 3 * largest + 16e6
    assert growth(tmp_path / "small", tmp_path / f"s{suffix}", tmp_path / "big", tmp_path / f"b{suffix}") < 3 * largest + 16e6


def test_a_checkpoint_from_before_an_expansion_is_written_at_its_own_width(tmp_path):
    from mugv.recipe.schema import Parallel
    from mugv.training.engine import build_model
    from mugv.training.model_io import save_model

    narrow = build_model(SMALL, TEXT, 2, Parallel(), 0)
    save_model(narrow, tmp_path / "folder", {"model": SMALL.model_dump(), "text": {"width": TEXT}, "width_divisor": 2})
    convert(tmp_path / "folder", tmp_path / "narrow.pt")
    state = torch.load(tmp_path / "narrow.pt", weights_only=True)
    assert {n: tuple(t.shape) for n, t in state.items()} == released_shapes(DiTModel(layers=2, hidden=24, heads=2, latent_channels=4), TEXT)
    assert torch.equal(state["blocks.1.mlp.fc2.weight"], narrow.get_parameter("layers.1.mlp.linear_fc2.weight"))
