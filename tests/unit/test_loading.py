"""Weights from a checkpoint folder into the networks: what is drawn, kept and computed in on the way."""

import pytest
import torch
from generation_tools import DIT, TEXT, write_checkpoint

from mugv.recipe.schema import Parallel
from mugv.training import engine
from mugv.training.model_io import load_dit


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
