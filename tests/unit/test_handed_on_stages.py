"""Through the stages themselves: what lies in a bf16 stage's output is what its optimizer held, and a widened network keeps it too."""

from __future__ import annotations

import pytest
import torch
from recipes import small_recipe
from test_lora_stage import write_inputs

from mugv.dit.expand import expand_tensor
from mugv.recipe.schema import Parallel
from mugv.stages import pretrain, sft
from mugv.stages.base import StageContext
from mugv.store.base import Ref
from mugv.training.convert import open_distributed
from mugv.training.engine import build_model
from mugv.training.model_io import save_model

CHANGES = ("parallel.precision=bf16", "text.width=8")
SMALL = "optimizer={learning_rate: 1.0e-6, schedule: constant}"
MASTER = "optimizer.state.fp32_param."


def context(folder, node: str, index: int, *changes: str) -> StageContext:
    recipe = small_recipe(folder, *CHANGES, *changes)
    for name in ("latents", "previous", "out", "work"):
        (folder / name).mkdir()
    write_inputs(folder, recipe)
    inputs = {"latents": folder / "latents", "clips": folder, "previous": folder / "previous"}
    refs = {name: Ref(path.as_uri(), "", "") for name, path in inputs.items()}
    return StageContext(recipe, node, index, inputs, refs, folder / "out", folder / "work")


def published(folder) -> dict[str, torch.Tensor]:
    state = open_distributed(folder / "model")
    return {name: state[name] for name in state}


def masters(checkpoint) -> dict[str, torch.Tensor]:
    state = open_distributed(checkpoint / "state")
    return {name.removeprefix(MASTER): state[name] for name in state if name.startswith(MASTER)}


def error(found, expected, before) -> float:
    off = sum(float((found[name] - value).square().sum()) for name, value in expected.items())
    return (off / sum(float((value - before[name]).square().sum()) for name, value in expected.items())) ** 0.5


def check(found, expected, before) -> None:
    assert set(found) == set(expected)
    assert all(value.dtype == torch.float32 for value in found.values())
    assert error({name: value.bfloat16().float() for name, value in expected.items()}, expected, before) > 0.2
    assert error(found, expected, before) < 0.01


def test_sft_publishes_the_average_of_masters(tmp_path):
    ctx = context(tmp_path, "sft", 0, f"sft.{SMALL}", "sft.steps=4", "sft.checkpoints=2", "sft.decay=0.5")
    sft.run(ctx)
    one, two = (masters(ctx.work / "train" / f"step-0000000{step}") for step in (2, 4))
    expected = {name: (0.5 * one[name] + value) / 1.5 for name, value in two.items()}
    check(published(ctx.out), expected, published(ctx.inputs["previous"]))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_pretraining_starts_a_wide_network_from_exact_weights(tmp_path, average):
    ctx = context(tmp_path, "pretrain-1", 1, f"pretrain.1.{SMALL}", "pretrain.1.steps=3", f"pretrain.1.average_decay={average}")
    model = ctx.recipe.dit.model_copy(update={"hidden": ctx.recipe.dit.hidden // 2, "heads": ctx.recipe.dit.heads // 2})
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    save_model(build_model(model, 8, 1, Parallel(), 0), narrow, {})
    ctx.inputs["previous"] = narrow
    pretrain.run(ctx)
    before = {name: expand_tensor(name, value, 2) for name, value in published(narrow).items()}
    after = masters(ctx.work / "train" / "step-00000003")
    if average:
        assert error(published(ctx.out), after, before) < 1  # on the way to them
        return
    check(published(ctx.out), after, before)
