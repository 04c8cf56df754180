"""Weights from a checkpoint folder into the networks: what is drawn, kept and computed in on the way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from generation_tools import DIT, TEXT, VAE, description, make_generator, write_checkpoint

from mugv.errors import UserError
from mugv.generation import Generator, Given
from mugv.recipe.models import TextEncoder
from mugv.recipe.schema import Parallel
from mugv.training import engine
from mugv.training.model_io import load_dit, save_model
from mugv.vae import VideoVAE, load_vae, save_vae


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("networks"))


def test_loading_draws_no_weights_only_to_throw_them_away(folders, monkeypatch):
    drawn = engine.build_model(DIT, TEXT.width, 1, Parallel(), 0)
    monkeypatch.setattr(engine, "initialise", lambda *_: pytest.fail("weights were drawn at random"))
    loaded, _ = load_dit(folders[0])
    for (name, a), b in zip(loaded.named_parameters(), drawn.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert vars(a) == vars(b), f"{name}: megatron's marks are lost"
        assert (a.dtype, a.requires_grad) == (b.dtype, b.requires_grad)


def test_the_weights_of_a_vae_are_not_held_twice(folders):
    """Copied into a second network, the peak was twice the file. Changing them leaves the file as it is."""
    vae = load_vae(folders[1])
    assert str(folders[1] / "model.safetensors") in Path("/proc/self/maps").read_text(), "the tensors are the file's pages"
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(1)
    again = load_vae(folders[1]).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())


def test_a_vae_may_be_saved_over_the_file_that_it_was_read_from(folders, tmp_path):
    save_vae(load_vae(folders[1]), tmp_path)
    vae = load_vae(tmp_path)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    save_vae(vae, tmp_path)
    for state in (vae.state_dict(), load_vae(tmp_path).state_dict()):
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_networks_compute_in_what_was_asked_for(folders):
    """On a CPU auto is fp32, on a GPU bf16 (mugv.precision); each network can have its own."""

    def formats(**asked):
        made = Generator.open(*folders, **asked)
        return next(made.model.parameters()).dtype, next(made.vae.parameters()).dtype

    automatic = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    assert formats() == (automatic, automatic)
    assert formats(precision="bf16") == (torch.bfloat16, torch.bfloat16)
    assert formats(precision="bf16", vae_precision="fp32") == (torch.bfloat16, torch.float32)


def test_bf16_networks_make_nearly_the_clip_of_fp32_ones(folders):
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, 32, 48, 3), dtype=np.uint8)
    exact, half = (Generator.open(*folders, precision=p).generate(["a"], given=Given(first=picture)) for p in ("fp32", "bf16"))
    difference = np.abs(exact.astype(int) - half)
    assert difference.max() > 0
    assert difference.mean() < 2


def test_text_is_encoded_in_what_was_asked_for(folders, monkeypatch):
    asked = []
    monkeypatch.setattr("mugv.text.t5.T5Encoder", lambda path, width, tokens, precision: asked.append(precision))
    from mugv.text import open_encoder

    open_encoder(TextEncoder(kind="t5", width=TEXT.width))
    open_encoder(TextEncoder(kind="t5", width=TEXT.width), "bf16")
    assert asked == ["fp32", "bf16"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, value):
    model = engine.build_model(DIT, TEXT.width, 1, Parallel(), 0)
    with torch.no_grad():
        model.timestep_block.weight[3, 5] = value
    (tmp_path / "dit").mkdir()
    save_model(model, tmp_path / "dit", description())
    save_vae(VideoVAE(VAE), tmp_path / "vae")
    with pytest.raises(UserError, match=r"dit: timestep_block.weight holds values that are not finite"):
        Generator.open(tmp_path / "dit", tmp_path / "vae")
    vae = VideoVAE(VAE)
    with torch.no_grad():
        vae.temporal_vae.quant_conv.conv.bias[0] = value
    save_vae(vae, tmp_path / "vae")
    save_model(engine.build_model(DIT, TEXT.width, 1, Parallel(), 0), tmp_path / "dit2", description())
    with pytest.raises(UserError, match=r"vae: temporal_vae.quant_conv.conv.bias holds values that are not finite"):
        Generator.open(tmp_path / "dit2", tmp_path / "vae")


def test_a_sampler_that_leaves_all_numbers_is_refused():
    generator = make_generator()
    with torch.no_grad():
        generator.model.final_layer.linear.weight.fill_(1e38)
    with pytest.raises(UserError, match=r"^the latents of 'a circle' \(guidance 4\) are not finite"):
        generator.generate(["a circle"], frames=9)
    with pytest.raises(UserError, match=r"^the latents are not finite"):
        generator.decode(torch.full((1, 4, 2, 4, 6), float("nan")))
