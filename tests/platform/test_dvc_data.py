"""DVC: dvc.yaml really builds clips through the stage CLI, and a revision gives back exactly the data it named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mugv.dataset.clipset import ClipSet
from mugv.errors import UserError
from mugv.platform.dvc_data import fetch, resolve
from mugv.recipe import load_recipe
from mugv.stages.graph import build_graph

ROOT = Path(__file__).resolve().parents[2]
MICRO = ["data.sample.shots=30", "data.sample.shots_per_file=6"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment for git, dvc and mugv: this installation first on the path, no settings of the user."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\n name = test\n email = test@example.org\n[init]\n defaultBranch = main\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "HOME": str(home), "PATH": path, "DVC_NO_ANALYTICS": "1"}


def call(folder: Path, environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A git repository with our dvc.yaml at micro size, built once (tag v1) and pushed to a folder as remote."""
    folder, remote = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("remote")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "mugv", folder / "mugv", ignore=shutil.ignore_patterns("__pycache__"))
    recipe = load_recipe(ROOT / yaml.safe_load((ROOT / "params.yaml").read_text())["recipe"], MICRO)
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True)))
    call(folder, environment, "git", "init", "-q")
    call(folder, environment, "dvc", "init", "-q")
    call(folder, environment, "dvc", "remote", "add", "-q", "-d", "store", str(remote))
    call(folder, environment, "dvc", "repro", "-q")
    commit(folder, environment, "v1")
    return folder


def commit(folder: Path, environment: dict[str, str], tag: str) -> None:
    call(folder, environment, "git", "add", "-A")
    call(folder, environment, "git", "commit", "-q", "-m", tag)
    call(folder, environment, "git", "tag", tag)
    call(folder, environment, "dvc", "push", "-q")


def test_dvc_and_the_graph_never_disagree_about_the_data_stages() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipe = load_recipe(ROOT / params["recipe"])
    assert params["shards"] == list(range(recipe.data.shards))
    for node in [n for n in build_graph(recipe) if n.pool == "data" and n.stage != "register"]:
        entry = stages["curate_shard"]["do"] if node.stage == "curate_shard" else stages[node.name]
        command = entry["cmd"].replace("${item}", str(node.index))
        assert f"mugv stage {node.name} " in command
        assert {word.partition("=")[0] for word in command.split() if "=" in word} == set(node.inputs), node.name
        for dependency in entry["deps"]:
            assert dependency.startswith("data/") or (ROOT / dependency).exists(), dependency


def test_repro_makes_a_clip_set_that_opens(project: Path) -> None:
    clips = ClipSet.open(project / "data" / "clips")
    counts = clips.counts()
    assert len(clips.rows()) >= 10, counts
    assert {row.split for row in clips.rows()} == {"train", "validation"}


def test_nothing_changed_means_nothing_runs(project: Path, environment: dict[str, str]) -> None:
    out = call(project, environment, "dvc", "repro")
    assert "Running stage" not in out
    assert "up to date" in out
    # A change of the training part is none of the data stages' business.
    path = project / "configs" / "tiny.yaml"
    before = path.read_text()
    tree = yaml.safe_load(before)
    tree["dit"]["layers"] += 1
    path.write_text(yaml.safe_dump(tree))
    assert "Running stage" not in call(project, environment, "dvc", "repro")
    path.write_text(before)


def test_a_revision_gives_back_the_data_it_named(project: Path, environment: dict[str, str], tmp_path: Path) -> None:
    first = resolve(project, "data/footage", "v1")
    recipe = project / "configs" / "tiny.yaml"
    tree = yaml.safe_load(recipe.read_text())
    tree["data"]["sample"]["seed"] = 7
    recipe.write_text(yaml.safe_dump(tree))
    call(project, environment, "dvc", "repro", "-q", "footage")
    commit(project, environment, "v2")
    second = resolve(project, "data/footage", "v2")
    assert first.md5 != second.md5
    assert resolve(project, "data/footage", "v1") == first
    assert resolve(project, "data/footage").md5 == second.md5
    shutil.rmtree(project / ".dvc" / "cache")
    folder = fetch(first, project, tmp_path)
    assert (folder / "captions.jsonl").is_file()
    assert folder.name == first.md5.removesuffix(".dir")
    assert (folder / "truth.json").read_bytes() != (project / "data" / "footage" / "truth.json").read_bytes()


def test_a_copy_is_made_once_and_a_half_made_one_is_never_used(project: Path, tmp_path: Path) -> None:
    version = resolve(project, "data/footage", "v1")
    half = tmp_path / version.md5.removesuffix(".dir")
    half.mkdir()
    (half / "left-by-a-kill").write_text("")
    folder = fetch(version, project, tmp_path)
    assert not (folder / "left-by-a-kill").exists()
    (folder / "mark").write_text("")
    assert (fetch(version, project, tmp_path) / "mark").exists()
    whole = (folder / "captions.jsonl").read_bytes()
    (folder / "captions.jsonl").write_bytes(bytes(len(whole)))
    assert (fetch(version, project, tmp_path) / "captions.jsonl").read_bytes() == whole
    assert not list(tmp_path.glob(".*"))


def test_a_wrong_name_is_one_clear_line(project: Path, tmp_path: Path) -> None:
    for arguments, why in [
        ((project, "data/nothing", "v1"), "is not tracked in .* at v1"),
        ((project, "data/footage", "v9"), "revision 'v9' not found"),
        ((tmp_path, "data/footage", None), "is not a DVC repository"),
    ]:
        with pytest.raises(UserError, match=why) as caught:
            resolve(*arguments)
        assert "\n" not in str(caught.value)
