"""What a recipe asks and this version cannot do is said before any stage: the 10B recipe curated for days, then could not train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes import write_recipe
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.recipe import load_recipe
from mugv.stages import preflight

PERCEPTUAL = "vae.train.perceptual_weight=0.1"


def refused(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--recipe", str(write_recipe(folder))])
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("command", ["run", "plan"])
def test_no_stage_runs_of_a_recipe_that_cannot_be_ended(command: str, tmp_path: Path) -> None:
    line = refused(tmp_path, command, "--set", PERCEPTUAL, "--state", str(tmp_path / "state"))
    assert "vae.train.perceptual_weight 0.1 needs an image network" in line
    assert not (tmp_path / "state").exists()


def test_a_pipeline_that_cannot_run_is_compiled_with_a_warning_and_not_sent(tmp_path: Path) -> None:
    assert "perceptual_weight" in refused(tmp_path, "submit", "--set", PERCEPTUAL, "--endpoint", "http://127.0.0.1:9")
    output = tmp_path / "pipeline.yaml"
    done = CliRunner().invoke(app, ["compile", "--recipe", str(write_recipe(tmp_path)), "--set", PERCEPTUAL, "-o", str(output)])
    assert done.exit_code == 0, done.output
    assert "warning: this version cannot run the recipe: vae.train.perceptual_weight" in done.stderr
    assert output.is_file()


def test_the_plan_is_shown_all_the_same(tmp_path: Path) -> None:
    arguments = ["plan", "--recipe", str(write_recipe(tmp_path)), "--set", PERCEPTUAL, "--state", str(tmp_path / "state"), "--json"]
    document = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert document["stages_in_all"] > 5
    (obstacle,) = document["cannot_run"]
    assert obstacle.startswith("vae.train.perceptual_weight")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["parallel.attention=flash", "parallel.precision=fp32"], "parallel.attention flash takes 16-bit numbers"),
    ],
)
def test_layouts_beyond_this_version_are_named(changes: list[str], said: str, tmp_path: Path) -> None:
    (obstacle,) = preflight.obstacles(load_recipe(write_recipe(tmp_path), changes), here=False)
    assert said in obstacle


BATCHES = ["pretrain.0.batch=16", "pretrain.1.batch=16", "sft.batch=16", "align.rounds.0.batch=32", "align.rounds.1.batch=32"]


@pytest.mark.parametrize("changes", [["parallel.world=16", "resources.gpus_per_node=8"], ["parallel.world=4", "resources.train.gpus=2"]])
def test_many_nodes_are_for_a_cluster_and_one_machine_says_so(changes: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), [*changes, *BATCHES])
    assert preflight.obstacles(recipe, here=False) == []
    (obstacle,) = preflight.obstacles(recipe, here=True)
    assert "needs 2 nodes" in obstacle
    assert "`mugv submit`" in obstacle
    assert "`mugv slurm`" in obstacle


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["text={kind: t5, path: /no/such/folder}"], "text.path: /no/such/folder is no folder"),
        (["curation.caption={kind: transformers, model: ./none}"], "curation.caption.model: ./none is no folder"),
    ],
)
def test_what_this_machine_lacks_is_named(changes: list[str], said: str, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), changes)
    assert preflight.obstacles(recipe, here=False) == []
    assert preflight.obstacles(recipe, here=True) == [said]


def test_a_kernel_of_gpus_is_refused_on_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    recipe = load_recipe(write_recipe(tmp_path), ["parallel.attention=te", "parallel.precision=bf16"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert preflight.obstacles(recipe, here=True) == ["parallel.attention te needs a GPU; use auto or sdpa"]


def test_a_mistake_in_the_labels_is_said_before_the_candidates_are_made(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text('{"kind": "absolute", "clip": "0000-0", "pass": "no"}\n')
    line = refused(tmp_path, "run", "--set", f"align.labels={tmp_path / 'labels.jsonl'}", "--state", str(tmp_path / "state"))
    assert "labels.jsonl line 1: pass must be true or false, without quotes, got 'no'" in line
    assert not (tmp_path / "state/runs").exists()


@pytest.mark.parametrize("name", ["tiny", "footage", "mugv-10b-finetune"])
def test_the_other_shipped_recipes_can_run(name: str) -> None:
    assert preflight.obstacles(load_recipe(Path(__file__).resolve().parents[2] / f"configs/{name}.yaml"), here=False) == []
