"""A released VAE file is recognised as one and becomes a VAE folder, and back, bit for bit."""

import pytest
import torch
import yaml
from recipes import TREE
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.recipe import load_recipe
from mugv.recipe.models import VAEModel
from mugv.training.convert import Options, convert
from mugv.vae import VideoVAE, load_vae, save_release

SMALL = {
    "base_channels": 8,
    "channel_multipliers": [1, 1, 2, 2],
    "blocks_per_level": 1,
    "temporal_channels": [8, 8, 16, 16],
    "temporal_blocks": 2,
    "groups": 4,
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**TREE, "vae": {**TREE["vae"], "model": SMALL}}))
    return path


@pytest.fixture
def released(tmp_path):
    torch.manual_seed(0)
    vae = VideoVAE(VAEModel.model_validate(SMALL))
    save_release(vae, tmp_path / "vae.pt")
    return vae


def test_a_vae_file_becomes_a_vae_folder_and_comes_back_bit_for_bit(tmp_path, recipe, released):
    convert(tmp_path / "vae.pt", tmp_path / "vae", Options(recipe=load_recipe(recipe, ())))
    expected = released.state_dict()
    folder = load_vae(tmp_path / "vae")
    assert folder.config == released.config
    assert all(torch.equal(tensor, expected[name]) for name, tensor in folder.state_dict().items())
    convert(tmp_path / "vae", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back) == list(expected)
    assert all(torch.equal(back[name], expected[name]) for name in expected)


def test_constants_of_the_file_are_not_counted_as_parameters(tmp_path, recipe, released):
    parameters = sum(p.numel() for p in released.parameters())
    there = convert(tmp_path / "vae.pt", tmp_path / "vae", Options(recipe=load_recipe(recipe, ())))
    back = convert(tmp_path / "vae", tmp_path / "back.pt")
    assert there.parameters == back.parameters == parameters
    assert there.tensors == len(released.state_dict())


def test_a_vae_of_another_size_is_refused_with_the_first_tensors(tmp_path, released):
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "vae.pt"), str(tmp_path / "vae")])
    assert result.exit_code == 2
    assert "tensors do not match" in result.stderr
    assert "expected [128, 3, 3, 3]" in result.stderr
    assert not (tmp_path / "vae").exists()
