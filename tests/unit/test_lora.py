"""LoRA: adapters alone are trained, the base stays as it is to the bit, and merging, saving and loading keep the function."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mugv import digests
from mugv.dit.lora import attach, is_adapter, merge
from mugv.errors import UserError
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import LoRA, Optimizer, Parallel
from mugv.training.adapters import load_adapter, save_adapter
from mugv.training.engine import Engine, build_model

MODEL = DiTModel(layers=2, hidden=48, heads=4, latent_channels=4)
SETTINGS = LoRA(rank=3, alpha=6.0)


def arguments():
    g = torch.Generator().manual_seed(0)
    noised = torch.tensor([[False, True, True], [True, True, True]])
    latent, text = torch.randn(2, 4, 3, 4, 4, generator=g), torch.randn(2, 5, 16, generator=g)
    return latent, torch.tensor([700.0, 300.0]), text, torch.ones(2, 5, dtype=torch.bool), torch.full((2,), 12.0), noised


class Objective:
    """Any loss whose gradient reaches every block."""

    def forward(self, model, micro_batch):
        return model(*arguments())

    def loss(self, velocity, micro_batch):
        return velocity.square().mean(), {}


def build(layout: Parallel = Parallel()):
    return build_model(MODEL, 16, 1, layout, 0)


def trained(layout: Parallel = Parallel(), settings: LoRA = SETTINGS):
    model = build(layout)
    attach(model, settings)
    engine = Engine(model, Optimizer(learning_rate=1e-2), layout)
    for _ in range(3):
        engine.step([None], Objective(), 1e-2)
    return model.eval()


@torch.no_grad()
def output(model):
    return model.eval()(*arguments())


def test_at_first_adapters_change_nothing():
    """To the bit of the frozen network; megatron multiplies frozen weights by another function than trainable ones."""
    plain, frozen, adapted = build(), build().requires_grad_(False), build()
    attach(adapted, SETTINGS)
    assert torch.equal(output(frozen), output(adapted))
    assert float((output(plain) - output(adapted)).abs().max()) < 2e-6


def test_exactly_the_factors_are_trainable():
    model, r, d = build(), SETTINGS.rank, 48
    attach(model, SETTINGS)
    block = r * ((d + 3 * d) + (d + d) + (d + d) + (d + 2 * d) + (d + d) + (d + 4 * d) + (4 * d + d))
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all(is_adapter(name) for name in trainable)
    assert sum(trainable.values()) == 2 * block
    model = build()
    attach(model, LoRA(rank=r, targets=("linear_kv",)))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * r * (d + 2 * d)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_training_moves_every_adapter_and_not_one_bit_of_the_base(recompute):
    """With recomputed blocks and a frozen embedder no gradient at all would reach the adapters."""
    start, fresh = build(), build()
    attach(fresh, SETTINGS)
    first = dict(fresh.named_parameters())
    model = trained(Parallel(recompute=recompute))
    base = dict(start.named_parameters())
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            assert not torch.equal(parameter, first[name]), name
        else:
            assert torch.equal(parameter, base[name]), name


def test_merged_weights_compute_what_the_adapters_did():
    model = trained()
    adapted = output(model)
    assert float((adapted - output(build())).abs().max()) > 1e-3
    merge(model)
    assert float((output(model) - adapted).abs().max()) < 1e-6
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in build().named_parameters()]
    assert all(p.requires_grad for p in model.parameters())


def test_an_adapter_is_saved_alone_and_loads_onto_an_equal_base(tmp_path):
    model = trained()
    save_adapter([model], tmp_path, SETTINGS)
    stored = load_file(tmp_path / "adapter.safetensors")
    assert set(stored) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.json", "adapter.safetensors", digests.NAME]
    other = build()
    assert load_adapter([other], tmp_path) == SETTINGS
    assert torch.equal(output(other), output(model))


def test_an_adapter_of_another_network_is_refused(tmp_path):
    save_adapter([trained()], tmp_path, SETTINGS)
    wide = build_model(DiTModel(layers=2, hidden=96, heads=8, latent_channels=4), 16, 1, Parallel(), 0)
    with pytest.raises(UserError, match=r"made for a network of layers 2, hidden 48, heads 4, mlp 192; this one has layers 2, hidden 96"):
        load_adapter([wide], tmp_path)
    content = json.loads((tmp_path / "adapter.json").read_text())
    content["lora"]["rank"] = 4
    (tmp_path / "adapter.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"linear_qkv\.lora\.a\.weight must be \[4, 48\], found \[3, 48\]"):
        load_adapter([build()], tmp_path)
    (tmp_path / "adapter.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"damaged since it was written: adapter\.safetensors"):
        load_adapter([build()], tmp_path)
    (tmp_path / "adapter.json").unlink()
    with pytest.raises(UserError, match=r"no readable adapter\.json"):
        load_adapter([build()], tmp_path)


def test_an_unknown_target_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'linear_qkv', 'linear_proj', 'linear_kv'"):
        LoRA(targets=("attn.qkv",))
