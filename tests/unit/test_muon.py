"""Muon must orthogonalise, must resume bit for bit, and must leave to Adam what is no matrix of a block."""

from __future__ import annotations

import pytest
import torch

from mugv.errors import UserError
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import MuonSettings, Optimizer, Parallel
from mugv.training.checkpoint_writer import checkpoints
from mugv.training.engine import Engine, build_model
from mugv.training.loop import fit
from mugv.training.muon import Muon, orthogonalise
from mugv.training.objectives import FlowBatch, losses, predict
from tests.unit.recipes import small_recipe

MODEL = DiTModel(layers=2, hidden=24, heads=2, latent_channels=4, gate_init="random")
SETTINGS = Optimizer(learning_rate=1e-3, warmup_steps=0, muon=MuonSettings(learning_rate=0.02))


class Training:
    """A task of the loop: one batch, again and again."""

    def __init__(self, settings: Optimizer = SETTINGS, precision: str = "fp32") -> None:
        layout = Parallel(precision=precision)
        self.engine = Engine(build_model(MODEL, 16, 1, layout, 0), settings, layout)
        g = torch.Generator().manual_seed(0)
        shape = (4, 4, 2, 4, 4)
        self.batch = FlowBatch(
            latent=torch.randn(shape, generator=g),
            noise=torch.randn(shape, generator=g),
            timestep=torch.tensor([100.0, 400.0, 700.0, 900.0]),
            noised=torch.ones(4, 2, dtype=torch.bool),
            text=torch.randn(4, 3, 16, generator=g),
            text_mask=torch.ones(4, 3, dtype=torch.bool),
            fps=torch.full((4,), 12.0),
        )

    def forward(self, model, batch):
        return predict(model, batch)

    def loss(self, velocity, batch):
        return losses(velocity, batch).mean(), {}

    def train_step(self, step: int) -> dict[str, float]:
        return self.engine.step([self.batch], self, 1e-3)

    def save(self, folder, asynchronous=False):
        return self.engine.save(folder, asynchronous)

    def load(self, folder):
        self.engine.load(folder)


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 96, 24), (2, 24, 72)])
def test_an_update_has_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    found = torch.linalg.svdvals(orthogonalise(matrices, 5))
    assert found.min() > 0.2
    assert found.max() < 1.25
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    agreement = (orthogonalise(matrices, 5) * (left @ right)).sum() / (left @ right).square().sum()
    assert agreement > 0.7


def test_matrices_computed_together_are_those_computed_alone():
    matrices = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(1))
    together = orthogonalise(matrices, 5)
    alone = torch.stack([orthogonalise(m[None], 5)[0] for m in matrices])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_muon_trains_the_blocks_linears_and_adam_the_rest():
    task = Training()
    groups = [g for g in task.engine.optimizer.param_groups if "iterations" in g]
    mine = {id(p) for g in groups for p in g["params"]}
    names = {name for name, p in task.engine.wrapped[0].module.named_parameters() if id(p) in mine}
    assert names == {
        f"layers.{i}.{part}.weight"
        for i in range(2)
        for part in (
            *(f"self_attention.{n}" for n in ("linear_qkv", "linear_proj")),
            *(f"cross_attention.{n}" for n in ("linear_q", "linear_kv", "linear_proj")),
            *(f"mlp.{n}" for n in ("linear_fc1", "linear_fc2")),
        )
    }
    assert all(p.requires_grad for p in task.engine.wrapped[0].module.parameters())
    before = {name: p.detach().clone() for name, p in task.engine.wrapped[0].module.named_parameters()}
    task.train_step(0)
    task.train_step(1)
    still = {name for name, p in task.engine.wrapped[0].module.named_parameters() if torch.equal(p, before[name])}
    assert not {name for name in still if "linear" in name and name.endswith("weight")}


def test_the_rate_of_muon_follows_the_schedule():
    task = Training()
    task.engine.step([task.batch], task, 5e-4)
    rates = {("iterations" in g): g["lr"] for g in task.engine.optimizer.param_groups}
    assert rates == {True: pytest.approx(0.01), False: pytest.approx(5e-4)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_repeats_the_losses(tmp_path, precision):
    whole: list[float] = []
    fit(Training(precision=precision), tmp_path / "a", 6, 3, lambda done, total, m: whole.append(m["loss"]))
    first: list[float] = []
    fit(Training(precision=precision), tmp_path / "b", 3, 3, lambda done, total, m: first.append(m["loss"]))
    assert [step for step, _ in checkpoints(tmp_path / "b")] == [3]
    rest: list[float] = []
    fit(Training(precision=precision), tmp_path / "b", 6, 3, lambda done, total, m: rest.append(m["loss"]))
    assert first + rest == whole
    assert whole[-1] < whole[0]


def test_muon_learns_faster_than_adam_with_the_same_rate_elsewhere():
    losses = {}
    for name, settings in (("muon", SETTINGS), ("adam", SETTINGS.model_copy(update={"muon": None}))):
        task = Training(settings)
        for step in range(25):
            losses[name] = task.train_step(step)["loss"]
    assert losses["muon"] < 0.9 * losses["adam"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("parallel.world=2", "parallel.tensor=2"), "muon needs parallel.tensor 1"),
        (("parallel.world=2", "parallel.distributed_optimizer=true", "pretrain.0.batch=2", "pretrain.1.batch=2"), "distributed_optimizer"),
        (("pretrain.0.lora={}",), "leave muon out where lora is set"),
    ],
)
def test_layouts_that_cut_matrices_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        small_recipe(tmp_path, "pretrain.0.optimizer.muon={}", *changes)


def test_decay_is_applied_to_the_matrices():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, momentum=0.9, iterations=5, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))
