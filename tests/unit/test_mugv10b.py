"""configs/mugv-10b.yaml: the published system loads, has its published sizes and compiles for a GPU cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_pipelines import compiled, executor_of, roots_of, tasks

from mugv.recipe import Recipe, load_recipe
from mugv.stages.graph import build_graph

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "mugv-10b.yaml"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPE)


@pytest.fixture(scope="module")
def ir(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    return compiled(recipe, tmp_path_factory.mktemp("ir"), roots_of(recipe))


def test_the_published_sizes_are_not_changed(recipe: Recipe) -> None:
    dit, vae = recipe.dit, recipe.vae.model
    assert (dit.layers, dit.hidden, dit.heads, dit.head_dim, dit.latent_channels) == (56, 3456, 48, 72, 24)
    assert vae.model_dump() == type(vae)().model_dump(), "the defaults are the released autoencoder"
    assert (recipe.text.kind, recipe.text.width, recipe.text.max_tokens) == ("t5", 4096, 300)
    assert (recipe.evaluate.sampler.steps, recipe.evaluate.sampler.guidance) == (25, 4.0)


def test_the_curriculum_keeps_the_paper_s_order(recipe: Recipe) -> None:
    stages = recipe.pretrain
    assert [s.expand.factor if s.expand else 1 for s in stages] == [1, 2, 1, 1], "1728 wide first, 3456 after"
    assert [s.size for s in stages] == [(352, 640), (352, 640), (352, 640), (720, 1280)]
    assert [s.frames for s in stages] == sorted(s.frames for s in stages)
    assert stages[-1].frames == 105
    shares = [sum(s.mask.model_dump().values()) for s in stages]
    assert shares[:2] == [0, 0], "masking starts in the second curriculum stage"
    assert all(0.2 < share < 0.3 for share in shares[2:])
    annealed = stages[1].image_fraction
    assert annealed[0] > 0.5 > annealed[1], "video must dominate in the end"


def test_the_layout_fits_the_machines(recipe: Recipe) -> None:
    layout, pool = recipe.parallel, recipe.resources.train
    assert (layout.world, layout.pipeline, layout.context, layout.data) == (512, 8, 8, 8)
    assert layout.world % recipe.resources.gpus_per_node == 0
    assert pool.gpus == recipe.resources.gpus_per_node
    assert pool.gpus % (layout.tensor * layout.context) == 0, "tensor and context parallel ranks must share a node"


def test_every_gpu_task_asks_for_its_gpus_and_its_nodes(recipe: Recipe, ir: tuple[dict, dict]) -> None:
    document, platform = ir
    for node in build_graph(recipe):
        name = executor_of(document, tasks(document)["curate_shard" if node.stage == "curate_shard" else node.name])
        container = document["deploymentSpec"]["executors"][name]["container"]
        accelerator = container["resources"].get("accelerator", {})
        if node.pool == "data" or node.stage in {"train_vae", "pretrain", "sft", "align"}:
            # Training needs 64 nodes: its task starts a TrainJob, which asks for them, and holds no GPU itself.
            assert not accelerator
            assert platform[name]["nodeSelector"]["labels"] == {"mugv.io/pool": "data"}
        else:
            assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "1"), node.name
            assert platform[name]["nodeSelector"]["labels"] == {"mugv.io/pool": "h100"}
            assert platform[name]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_the_number_of_tasks_follows_the_recipe(recipe: Recipe, ir: tuple[dict, dict]) -> None:
    names = set(tasks(ir[0]))
    assert {n for n in names if n.startswith("pretrain")} == {f"pretrain-{k}" for k in range(4)}
    assert {n for n in names if n.startswith("align")} == {f"align-{j}" for j in range(4)}
    assert {"sft", "candidates", "shards"} <= names
    assert "footage" not in names


def test_256_shards_do_not_make_256_tasks_in_the_ir(ir: tuple[dict, dict], recipe: Recipe) -> None:
    assert recipe.data.shards == 256
    assert len(tasks(ir[0])) == 21, "19 of the graph, the exit handler and what it waits for"
