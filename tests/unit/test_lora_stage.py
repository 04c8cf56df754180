"""LoRA through the stage `sft`: the output is a plain checkpoint with the adapters merged in, the adapters lie beside it."""

import numpy as np
import pytest
import torch
from recipes import small_recipe
from safetensors.torch import load_file

from mugv.dataset.latentset import LatentNorm, LatentRow, write_latent_set
from mugv.recipe.schema import Parallel
from mugv.stages.base import StageContext
from mugv.stages.sft import run
from mugv.store.base import Ref
from mugv.training.adapters import load_adapter
from mugv.training.engine import build_model
from mugv.training.model_io import load_dit, save_model

LORA = "sft.lora={rank: 2, alpha: 4, targets: [linear_qkv, linear_fc2]}"


def write_inputs(folder, recipe):
    g = torch.Generator().manual_seed(0)
    rows = [LatentRow(f"c{i}", "train", f"caption {i}", 0.1 * i, 12.0, i) for i in range(4)]
    texts = [np.random.default_rng(i).standard_normal((2, recipe.text.width)).astype(np.float32) for i in range(4)]
    norm = LatentNorm((0.0,) * 24, (1.0,) * 24)
    data = {(48, 48): torch.randn(4, 24, 3, 6, 6, generator=g)}
    null = np.zeros((1, recipe.text.width), np.float32)
    write_latent_set(folder / "latents", rows, data, texts, null, norm, {})
    previous = build_model(recipe.dit, recipe.text.width, 1, Parallel(), 0)
    config = {"model": recipe.dit.model_dump(), "text": recipe.text.model_dump(), "width_divisor": 1}
    save_model(previous, folder / "previous", config)


@pytest.fixture
def context(tmp_path):
    recipe = small_recipe(tmp_path, LORA, "sft.steps=4", "sft.checkpoints=2", "text.width=8", "sft.optimizer.learning_rate=0.01")
    for name in ("latents", "previous", "out", "work"):
        (tmp_path / name).mkdir()
    write_inputs(tmp_path, recipe)
    inputs = {"latents": tmp_path / "latents", "clips": tmp_path, "previous": tmp_path / "previous"}
    refs = {name: Ref(path.as_uri(), "", "") for name, path in inputs.items()}
    return StageContext(recipe, "sft", 0, inputs, refs, tmp_path / "out", tmp_path / "work")


def test_sft_with_adapters_moves_their_targets_alone_and_keeps_them_beside_the_weights(context):
    metrics = run(context)
    assert metrics["checkpoints_averaged"] == 2
    before, after = (dict(load_dit(folder)[0].named_parameters()) for folder in (context.inputs["previous"], context.out))
    assert set(before) == set(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"layers.{i}.{part}.weight" for i in range(2) for part in ("self_attention.linear_qkv", "mlp.linear_fc2")}
    stored = load_file(context.out / "adapter" / "adapter.safetensors")
    a, b = (stored[f"layers.1.mlp.linear_fc2.lora.{factor}.weight"] for factor in ("a", "b"))
    name = "layers.1.mlp.linear_fc2.weight"
    assert torch.allclose(after[name], before[name] + 2.0 * b @ a, atol=1e-6)


def test_the_adapter_of_the_stage_on_the_old_weights_gives_the_new_network(context):
    run(context)
    base, _ = load_dit(context.inputs["previous"])
    load_adapter([base], context.out / "adapter")
    merged, _ = load_dit(context.out)
    g = torch.Generator().manual_seed(0)
    latent, text = torch.randn(1, 24, 3, 6, 6, generator=g), torch.randn(1, 2, 8, generator=g)
    arguments = (latent, torch.tensor([500.0]), text, torch.ones(1, 2, dtype=torch.bool), torch.tensor([12.0]), torch.ones(1, 3).bool())
    with torch.no_grad():
        assert torch.allclose(base(*arguments), merged(*arguments), atol=1e-5)


def test_adapters_and_a_running_average_of_the_whole_network_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="average_decay averages whole networks"):
        small_recipe(tmp_path, LORA, "sft.average_decay=0.9")
