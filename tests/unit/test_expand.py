"""Width expansion: the function survives it, noise breaks the copies' symmetry, and every layout gets the same weights."""

import pytest
import torch

from mugv.dit.expand import expand, expand_tensor
from mugv.errors import UserError
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Expansion, Parallel
from mugv.training.engine import build_model

WIDE = DiTModel(layers=2, hidden=144, heads=12, latent_channels=4)


def arguments(channels: int = 4, text: int = 16):
    g = torch.Generator().manual_seed(0)
    noised = torch.tensor([[False, True, True], [True, True, True]])
    return (
        torch.randn(2, channels, 3, 4, 4, generator=g),
        torch.tensor([700.0, 300.0]),
        torch.randn(2, 5, text, generator=g),
        torch.ones(2, 5, dtype=torch.bool),
        torch.full((2,), 12.0),
        noised,
    )


def widened(settings: Expansion, model: DiTModel = WIDE, text: int = 16):
    narrow = build_model(model, text, settings.factor, Parallel(), 3).eval()
    wide = build_model(model, text, 1, Parallel(), 4).eval()
    expand(dict(narrow.named_parameters()), wide, settings)
    return narrow, wide


def largest_difference(narrow, wide, args) -> float:
    with torch.no_grad():
        return float((narrow(*args) - wide(*args)).abs().max())


@pytest.mark.parametrize("noise_db", [None, 10.0])
@pytest.mark.parametrize("factor", [2, 3])
def test_expansion_with_symmetric_noise_or_none_keeps_the_function(factor, noise_db):
    narrow, wide = widened(Expansion(factor=factor, noise_db=noise_db))
    assert largest_difference(narrow, wide, arguments()) < 1e-5


def test_appendix_b8_expansion_of_1728_to_3456_keeps_the_function():
    """The published widths, one block of the 56."""
    model = DiTModel(layers=1)
    narrow, wide = widened(Expansion(factor=2), model, text=64)
    assert wide.config.hidden_size == 3456
    assert narrow.config.num_attention_heads == 24
    args = arguments(24, 64)
    with torch.no_grad():
        size = float(narrow(*args).abs().max())
    assert size > 0.1
    assert largest_difference(narrow, wide, args) < 1e-5


def test_plain_noise_moves_the_function_a_little():
    narrow, wide = widened(Expansion(noise_db=40.0, noise="plain"))
    assert 1e-5 < largest_difference(narrow, wide, arguments()) < 0.1


@pytest.mark.parametrize(("noise", "factor"), [("symmetric", 2), ("symmetric", 3), ("plain", 3)])
def test_noise_has_the_asked_strength(noise, factor):
    name = "layers.0.mlp.linear_fc1.weight"
    narrow, wide = widened(Expansion(factor=factor, noise_db=20.0, noise=noise))
    clean = expand_tensor(name, dict(narrow.named_parameters())[name], factor)
    added = dict(wide.named_parameters())[name] - clean
    assert float(added.std() / clean.std()) == pytest.approx(0.1, rel=0.03)
    columns = added.unflatten(1, (factor, -1)).sum(1).abs().max()
    assert (float(columns) < 1e-6) == (noise == "symmetric")


@pytest.mark.parametrize("factor", [2, 3])
def test_without_noise_copies_of_a_channel_never_part_and_with_it_they_do(factor):
    def copies_equal(noise_db):
        _, wide = widened(Expansion(factor=factor, noise_db=noise_db))
        wide.train()(*arguments()).square().mean().backward()
        grad = wide.get_parameter("layers.0.mlp.linear_fc1.weight").grad.unflatten(0, (factor, -1))
        return torch.allclose(grad[0], grad[1], atol=1e-9)

    assert copies_equal(None)
    assert not copies_equal(15.0)


def test_a_factor_that_does_not_lead_to_the_wide_network_names_the_tensor():
    narrow, wide = build_model(WIDE, 16, 2, Parallel(), 3), build_model(WIDE, 16, 1, Parallel(), 4)
    with pytest.raises(UserError, match=r"expansion by 3: start_token becomes \[216\], the wide network has \[144\]"):
        expand(dict(narrow.named_parameters()), wide, Expansion(factor=3))


def test_a_factor_below_two_is_refused():
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        Expansion(factor=1)
