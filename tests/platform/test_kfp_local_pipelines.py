"""Pipelines of the real graph shape, run by kfp.local with the real stages at micro size: curation alone, and retraining."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mugv.dataset.clipset import ClipSet
from mugv.platform.local import StageFailedError, run_pipeline
from mugv.platform.records import RunRecord
from mugv.platform.registry import Registry
from mugv.platform.tracking import Tracking
from mugv.recipe import Recipe, load_recipe, recipe_to_json
from mugv.stages import resolve_data
from mugv.stages.environment import RunEnvironment
from mugv.store import Ref

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner")


def micro(folder: Path, **data: Any) -> Recipe:
    """The laptop's recipe with about thirty shots and two steps everywhere; sft and alignment left out."""
    tree = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    tree["data"] = {"shards": 2, **(data if data else {"sample": {"shots": 30, "shots_per_file": 6, "size": 96}})}
    tree["vae"]["train"]["phases"] = [{**tree["vae"]["train"]["phases"][0], "steps": 2, "batch": 4}]
    tree["vae"]["train"].pop("precision", None)  # named, bf16 is imitated where the processor has none of it
    tree["dit"].update(layers=1, hidden=48, heads=2)
    tree["pretrain"] = [{**tree["pretrain"][0], "steps": 2, "batch": 4, "size": [32, 32]}]
    tree["pretrain"][0]["optimizer"].pop("warmup_steps", None)
    tree["encode"]["sizes"] = [[32, 32]]
    tree["evaluate"] = {"clips": 2, "sampler": {"steps": 2}, "judge": "none", "flow_loss_clips": 2}
    tree["register"] = {"model": "micro"}
    for absent in ("sft", "align"):
        tree.pop(absent)
    path = folder / "micro.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(path)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


def run(pipeline: Any, state: Path, name: str) -> RunRecord:
    """Run a pipeline as `mugv run` does; returns its record."""
    record = RunRecord.of(state, name)
    record.update(run=name, started=0.0, status="running")
    tracking = Tracking.of_state(state)
    environment = replace(
        RunEnvironment.from_env({"MUGV_STATE": str(state)}),
        run=name,
        tracking_uri=tracking.uri,
        experiment=tracking.experiment,
        forwarded=True,
    )
    run_pipeline(pipeline, record, {**environment.to_env(), "OMP_NUM_THREADS": "1"})
    return record


def statuses(record: RunRecord) -> dict[str, str]:
    return {stage["node"]: stage["status"] for stage in record.stages()}


def test_curation_as_a_pipeline_ends_in_a_clip_set_and_a_second_run_makes_nothing(state: Path, tmp_path: Path) -> None:
    from pipelines.data import build_pipeline

    recipe = micro(tmp_path)
    first = run(build_pipeline(recipe), state, "data-1")
    nodes = ["curate", "curate_shard-0", "curate_shard-1", "footage", "scan"]
    assert statuses(first) == dict.fromkeys(nodes, "ran")
    store = RunEnvironment.from_env({"MUGV_STATE": str(state)}).open_store()
    clips = ClipSet.open(store.fetch(Ref(**first.stage("curate")["output"])))
    assert len(clips.rows()) >= 10
    second = run(build_pipeline(recipe), state, "data-2")
    assert set(statuses(second).values()) <= {"hit", "not needed"}
    assert sorted(statuses(second)) == nodes


def test_only_small_manifests_travel_through_kfp(state: Path) -> None:
    others = {"executor_output.json", "metrics", "report"}
    artifacts = [p for p in (state / "runs" / "data-1" / "kfp").rglob("*") if p.is_file() and p.name not in others]
    manifests = [json.loads(p.read_text()) for p in artifacts]
    assert {m["node"] for m in manifests} == {"footage", "scan", "curate_shard-0", "curate_shard-1", "curate"}
    assert max(p.stat().st_size for p in artifacts) < 4000
    assert all(m["uri"] and m["digest"] and len(m["key"]) == 64 for m in manifests)
    outputs = [json.loads(p.read_text()) for p in (state / "runs" / "data-1" / "kfp").rglob("executor_output.json")]
    groups = [group for o in outputs for name, group in o["artifacts"].items() if name not in others]
    metadata = [a["metadata"] for group in groups for a in group["artifacts"]]
    assert {m["digest"] for m in metadata} == {m["digest"] for m in manifests}, "the KFP page shows where an output is"


def test_a_user_s_mistake_ends_the_pipeline_with_its_one_line(state: Path, tmp_path: Path) -> None:
    from pipelines.data import build_pipeline

    empty = tmp_path / "videos"
    empty.mkdir()
    with pytest.raises(StageFailedError, match=re.escape(str(empty))) as caught:
        run(build_pipeline(micro(tmp_path, videos=str(empty))), state, "data-3")
    assert caught.value.by_user
    assert "\n" not in str(caught.value)


def test_retraining_trains_once_and_then_stops_at_once(state: Path, tmp_path: Path) -> None:
    from pipelines.retrain import build_pipeline

    pipeline = build_pipeline(micro(tmp_path))
    first = run(pipeline, state, "retrain-1")
    done = statuses(first)
    assert done["register"] == done["pretrain-0"] == "ran"
    assert done["curate"] == "hit", "curated before, by the pipeline that curates alone"
    registry = Registry(Tracking.of_state(state).uri)
    champion = registry.champion("micro")
    assert champion is not None
    second = run(build_pipeline(micro(tmp_path)), state, "retrain-2")
    assert statuses(second) == {}, "nothing may run"
    log = (state / "runs" / "retrain-2" / "kfp.log").read_text()
    assert f"neither data nor code nor recipe changed since micro version {champion.version} (champion): nothing to train" in log
    assert [v.version for v in registry.versions("micro")] == [champion.version]


@pytest.fixture
def deciding(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests after the retraining need: its champion."""
    monkeypatch.setenv("MUGV_STATE", str(state))
    for name in ("MUGV_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    if Registry(Tracking.of_state(state).uri).champion("micro") is None:
        pytest.fail("the retraining has left no champion")


@pytest.mark.usefixtures("deciding")
def test_the_reason_to_train_again_is_named(tmp_path: Path) -> None:
    recipe = micro(tmp_path)
    longer = recipe.pretrain[0].model_copy(update={"steps": 3})
    other = resolve_data.decide(recipe_to_json(recipe.model_copy(update={"pretrain": (longer,)})), "", "", "")
    assert other.decision == "changed"
    assert "the code or the recipe changed since micro version 1" in other.reason
    same = resolve_data.decide(recipe_to_json(recipe), "", "", "")
    assert same.decision == "unchanged"


@pytest.mark.usefixtures("deciding")
def test_new_data_under_dvc_starts_a_training_on_that_data(state: Path, tmp_path: Path) -> None:
    footage = RunRecord.of(state, "data-1").stage("footage")["output"]
    store = RunEnvironment.from_env({"MUGV_STATE": str(state)}).open_store()
    project = _project(tmp_path / "project", store.fetch(Ref(**footage)))
    decided = resolve_data.decide(recipe_to_json(micro(tmp_path)), str(project), "videos", "v1")
    assert decided.decision == "changed"
    assert "the data changed" in decided.reason
    assert decided.data is not None
    assert decided.recipe.data.dvc_revision == decided.data.commit
    videos = Path(decided.recipe.data.videos or "")
    assert list(videos.glob("*.mp4"))
    assert videos.parent == state / "data"
    resolve_data.write(decided, tmp_path / "out" / "resolved.json")
    assert json.loads((tmp_path / "out" / "resolved.json").read_text())["data"]["md5"] == decided.data.md5


def _project(folder: Path, footage: Path) -> Path:
    import shutil
    import sys

    shutil.copytree(footage, folder / "videos", ignore=shutil.ignore_patterns("manifest.json"))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "remote").mkdir()
    dvc, git = [sys.executable, "-m", "dvc"], ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (
        [*git, "init", "-q"],
        [*dvc, "init", "-q"],
        [*dvc, "remote", "add", "-q", "-d", "store", str(folder / "remote")],
        [*dvc, "add", "-q", "videos"],
        [*git, "add", ".dvc/config", "videos.dvc", ".gitignore"],
        [*git, "commit", "-q", "-m", "v1"],
        [*git, "tag", "v1"],
        [*dvc, "push", "-q"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


@pytest.mark.usefixtures("deciding")
def test_half_an_address_of_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (recipe_to_json(micro(tmp_path)), "", "videos", "v1", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c"))
    with pytest.raises(SystemExit) as caught:
        resolve_data.component_main(*arguments)
    assert caught.value.code == 2
    assert "path and revision need a repository" in capsys.readouterr().out


def test_a_run_leaves_nothing_outside_of_its_state_folder(state: Path) -> None:
    lineage = list((state / "mlartifacts").rglob("lineage.json"))
    assert len(lineage) == 1, "the model must be kept beside its database, not where the command was started"
