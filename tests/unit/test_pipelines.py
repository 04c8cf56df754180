"""Pipelines: their tasks follow the recipe, and the IR says where each runs and under which key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_recipes import CAPTIONED, full_recipe, minimal_recipe

from mugv.errors import UserError
from mugv.platform.kfp_client import compile_pipeline
from mugv.recipe import Recipe, load_recipe, recipe_from_json
from mugv.stages.graph import build_graph, node_keys
from mugv.stages.roots import FILE_KEYS, Roots

ROOT = Path(__file__).resolve().parents[2]
POOL = {
    "cpu": "4",
    "memory": "16G",
    "gpus": 2,
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu"}, {"key": "team", "operator": "Equal", "value": "video", "effect": "NoExecute"}],
}


def roots_of(recipe: Recipe) -> Roots:
    """Those of a machine that has the videos."""
    code = {node.stage: "c" * 64 for node in build_graph(recipe)}
    return Roots("d" * 64, dict.fromkeys(FILE_KEYS, ""), code)


def compiled(recipe: Recipe, folder: Path, roots: Roots | None = None, kind: Any = "train") -> tuple[dict, dict]:
    """The IR and its Kubernetes part."""
    path = compile_pipeline(recipe, folder / "pipeline.yaml", roots, kind)
    ir, *platforms = yaml.safe_load_all(path.read_text())
    return ir, platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def dags(ir: dict) -> list[dict]:
    return [ir["root"]["dag"], *(c["dag"] for c in ir["components"].values() if "dag" in c)]


def tasks(ir: dict) -> dict[str, dict]:
    """Display name -> task, of the root and of every loop and condition."""
    return {t["taskInfo"]["name"]: t for dag in dags(ir) for t in dag["tasks"].values()}


def executor_of(ir: dict, task: dict) -> str:
    return ir["components"][task["componentRef"]["name"]]["executorLabel"]


ENDED = {"run", "finish"}
"""The exit handler around all tasks, and the task that ends the run."""


@pytest.mark.parametrize("recipe", [minimal_recipe(), full_recipe(), full_recipe(align=None), full_recipe(data={"videos": "/clips"})])
def test_a_stage_of_the_recipe_is_never_lost_from_the_pipeline(recipe: Recipe, tmp_path: Path) -> None:
    ir, _ = compiled(recipe, tmp_path)
    shards = {"curate_shard", "shards", "loop"} | ENDED
    expected = {n.name for n in build_graph(recipe) if n.stage != "curate_shard"} | shards
    assert set(tasks(ir)) == expected


def test_captions_are_asked_for_inside_the_loop_over_shards_and_reach_the_merge(tmp_path: Path) -> None:
    ir, platform = compiled(full_recipe(curation=CAPTIONED), tmp_path, kind="data")
    assert set(tasks(ir)) == {"footage", "scan", "shards", "loop", "curate_shard", "caption", "curate"} | ENDED
    found = tasks(ir)
    assert found["caption"]["inputs"]["artifacts"]["part"]["taskOutputArtifact"]["producerTask"] == "curate-shard"
    assert found["curate"]["dependentTasks"] == ["scan", "shards"]
    assert not found["caption"].get("cachingOptions", {}).get("enableCache"), "one key for all shards would give all one output"
    secrets = {s["secretName"]: s for s in platform[executor_of(ir, found["caption"])]["secretAsEnv"]}
    assert secrets["mugv-captions"]["keyToEnv"][0]["envVar"] == "MUGV_CAPTION_KEY"
    assert secrets["mugv-captions"]["optional"], "a server without a key needs no secret"


def test_a_captioning_model_in_the_process_runs_where_the_gpus_are(tmp_path: Path) -> None:
    curation = {"caption": {"kind": "transformers", "model": "/models/vlm"}}
    recipe = full_recipe(curation=curation, resources={"train": POOL, "image_train": "r/train-python:abc"})
    ir, platform = compiled(recipe, tmp_path, kind="data")
    name = executor_of(ir, tasks(ir)["caption"])
    assert ir["deploymentSpec"]["executors"][name]["container"]["image"] == "r/train-python:abc"
    assert platform[name]["nodeSelector"]["labels"] == {"pool": "gpu"}


def test_two_tasks_never_share_a_cache_key(tmp_path: Path) -> None:
    recipe = full_recipe()
    keys = node_keys(recipe, roots_of(recipe))
    ir, _ = compiled(recipe, tmp_path, roots_of(recipe))
    given = {name: t["cachingOptions"]["cacheKey"] for name, t in tasks(ir).items() if t.get("cachingOptions", {}).get("cacheKey")}
    assert given == {name: key for name, key in keys.items() if not name.startswith("curate_shard") and name != "register"}
    assert len(set(given.values())) == len(given)
    assert not tasks(ir)["curate_shard"].get("cachingOptions", {}).get("enableCache"), "one key for all shards would give all one output"


@pytest.mark.parametrize(("kind", "last"), [("train", "register"), ("data", "curate")])
def test_the_last_task_always_looks_what_kubeflow_found_for_it(tmp_path: Path, kind: Any, last: str) -> None:
    """A recipe that is edited in Kubeflow's form keeps the compiled cache keys: the old result would pass for the new one."""
    recipe = full_recipe()
    ir, _ = compiled(recipe, tmp_path, roots_of(recipe), kind)
    assert not tasks(ir)[last].get("cachingOptions", {}).get("enableCache")
    assert tasks(ir)["scan"]["cachingOptions"]["cacheKey"]


def test_without_keys_kfp_caches_nothing(tmp_path: Path) -> None:
    ir, _ = compiled(minimal_recipe(), tmp_path)
    assert not [t for t in tasks(ir).values() if t.get("cachingOptions", {}).get("enableCache")]


def test_inputs_are_wired_as_the_graph_says(tmp_path: Path) -> None:
    recipe = full_recipe()
    ir, _ = compiled(recipe, tmp_path)
    by_id = {i: t["taskInfo"]["name"] for dag in dags(ir) for i, t in dag["tasks"].items()}
    for node in build_graph(recipe):
        if node.stage in {"curate_shard", "curate"}:
            continue
        artifacts = tasks(ir)[node.name].get("inputs", {}).get("artifacts", {})
        wired = {name: by_id[a["taskOutputArtifact"]["producerTask"]] for name, a in artifacts.items()}
        assert wired == node.inputs, node.name
    merge = tasks(ir)["curate"]
    assert {by_id[name] for name in merge["dependentTasks"]} == {"scan", "shards"}
    assert set(merge["inputs"]["artifacts"]) == {"scan"}, "10,000 outputs are more than a task's arguments can name"


@pytest.mark.parametrize(("parallelism", "limit"), [(7, 7), (0, None)])
def test_the_shards_that_run_at_once_are_limited(tmp_path: Path, parallelism: int, limit: int | None) -> None:
    ir, _ = compiled(full_recipe(data={"shards": 300, "parallelism": parallelism}), tmp_path)
    assert tasks(ir)["loop"].get("iteratorPolicy", {}).get("parallelismLimit") == limit


def test_gpu_limits_selectors_and_tolerations_follow_the_pool(tmp_path: Path) -> None:
    """A GPU that a task holds and does not use is missing elsewhere: a stage of one process asks for one, of two processes for two."""
    images = {"image_train": "r/train-python:abc", "image_data": "r/data-python:abc"}
    recipe = full_recipe(resources={"train": POOL, **images}, parallel={"world": 2, "micro_batch": 1})
    ir, platform = compiled(recipe, tmp_path)
    for node in build_graph(recipe):
        name = executor_of(ir, tasks(ir)["curate_shard" if node.stage == "curate_shard" else node.name])
        container = ir["deploymentSpec"]["executors"][name]["container"]
        assert container["image"] == ("r/data-python:abc" if node.pool == "data" else "r/train-python:abc")
        accelerator = container["resources"].get("accelerator")
        if node.pool != "train":
            assert accelerator is None
            assert "tolerations" not in platform[name]
            continue
        used = "2" if node.stage in {"pretrain", "sft", "align"} else "1"
        assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", used)
        assert container["resources"]["resourceMemoryLimit"] == "16G"
        assert container["resources"]["resourceCpuLimit"] == "4"
        assert platform[name]["nodeSelector"]["labels"] == {"pool": "gpu"}
        assert [t["key"] for t in platform[name]["tolerations"]] == ["nvidia.com/gpu", "team"]
        assert platform[name]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"


def test_a_task_without_the_store_s_address_or_its_checkpoints_is_never_made(tmp_path: Path) -> None:
    recipe = full_recipe(data={"videos": "/clips"})
    ir, platform = compiled(recipe, tmp_path)
    assert set(platform) == set(ir["deploymentSpec"]["executors"])
    for name, executor in platform.items():
        secrets = {s["secretName"]: s.get("optional", False) for s in executor["secretAsEnv"]}
        assert secrets == {"mugv-store": True, "mugv-mlflow": True}, f"{name}: a service account with a role needs no keys"
        wanted = {c["configMapName"] for c in executor["configMapAsEnv"] if not c.get("optional")}
        assert wanted == {"mugv-store", "mugv-mlflow"}
        (authority,) = executor["configMapAsVolume"]
        assert (authority["configMapName"], authority["mountPath"], authority["optional"]) == ("mugv-ca", "/etc/mugv-ca", True)
        mounts = {m["mountPath"]: m["constant"] for m in executor["pvcMount"]}
        assert mounts["/mugv"] == "mugv-state"
        given = {k["envVar"] for source in executor["secretAsEnv"] + executor["configMapAsEnv"] for k in source["keyToEnv"]}
        assert {"MUGV_STATE", "MUGV_STORE", "MUGV_S3_SECRET_KEY", "MLFLOW_TRACKING_URI"} <= given
        assert [f["name"] for f in executor["fieldPathAsEnv"]] == ["MUGV_RUN"]
        container = ir["deploymentSpec"]["executors"][name]["container"]
        assert not container.get("env"), "a plain variable would also move the state of a local run to the cluster's path"
    assert platform[executor_of(ir, tasks(ir)["scan"])]["pvcMount"][-1]["mountPath"] == "/clips"


def test_a_task_writes_only_to_volumes_and_is_never_root(tmp_path: Path) -> None:
    """The same paths as in the images: a root file system that is read-only stops no task."""
    recipe_of_image = (Path(__file__).resolve().parents[2] / "images" / "Containerfile").read_text()
    _, platform = compiled(full_recipe(resources={"train": POOL}), tmp_path)
    for name, executor in platform.items():
        assert executor["securityContext"] == {"runAsNonRoot": True}, name
        mounts = {m["volumeName"]: m["mountPath"] for m in executor["emptyDirMounts"]}
        assert {k: v for k, v in mounts.items() if k != "shm"} == {"tmp": "/tmp", "home": "/home/mugv"}
    assert "HOME=/home/mugv TMPDIR=/tmp " in recipe_of_image
    assert re.findall(r"=/tmp/cache\S*", recipe_of_image), "caches of libraries"


def test_scores_that_a_network_gives_run_in_the_image_that_has_torch(tmp_path: Path) -> None:
    resources = {"train": POOL, "image_train": "r/train-python:abc"}
    for part in ({"aesthetic": {"clip": "/models/clip"}}, {"motion": {"method": "raft", "weights": "/models/raft.pth"}}):
        ir, platform = compiled(full_recipe(curation=part, data={"videos": "/clips"}, resources=resources), tmp_path, kind="data")
        name = executor_of(ir, tasks(ir)["curate_shard"])
        assert ir["deploymentSpec"]["executors"][name]["container"]["image"] == "r/train-python:abc"
        assert platform[name]["pvcMount"][-1]["mountPath"] == "/clips", "it reads the videos there too"


def test_the_recipe_travels_whole_as_a_parameter(tmp_path: Path) -> None:
    recipe = full_recipe()
    ir, _ = compiled(recipe, tmp_path)
    default = ir["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert recipe_from_json(default) == recipe
    assert json.loads(default)["register"]["model"] == "mugv"


def test_failed_tasks_are_retried_on_a_cluster_only(tmp_path: Path) -> None:
    from pipelines.train import build_pipeline

    ir, _ = compiled(minimal_recipe(), tmp_path)
    assert tasks(ir)["train_vae"]["retryPolicy"]["maxRetryCount"] == 20
    local = build_pipeline(minimal_recipe()).pipeline_spec
    assert not [t for t in local.root.dag.tasks.values() if t.retry_policy.max_retry_count], "a user's mistake would be tried again"


@pytest.mark.parametrize("kind", ["train", "data", "retrain"])
def test_every_run_of_a_cluster_is_ended_whatever_happened_in_it(tmp_path: Path, kind: str) -> None:
    """MLflow's run stayed RUNNING for ever. The last task learns how the others ended, and needs none of their outputs."""
    ir, platform = compiled(minimal_recipe(), tmp_path, kind=kind)
    root = ir["root"]["dag"]["tasks"]
    assert len(root) == 2
    last = root["finish"]
    handler = next(name for name in root if name != "finish")
    assert last["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert last["inputs"]["parameters"]["status"]["taskFinalStatus"] == {"producerTask": handler}
    assert "artifacts" not in last["inputs"]
    assert not last.get("cachingOptions", {}).get("enableCache")
    assert {v["mountPath"] for v in platform[executor_of(ir, last)]["pvcMount"]} == {"/mugv"}


def test_a_run_on_this_machine_ends_itself_and_has_no_task_more() -> None:
    from pipelines.train import build_pipeline

    assert not {"finish", "exit-handler-1"} & set(build_pipeline(minimal_recipe()).pipeline_spec.root.dag.tasks)


def test_the_data_pipeline_stops_at_the_clip_set(tmp_path: Path) -> None:
    ir, _ = compiled(full_recipe(), tmp_path, kind="data")
    assert set(tasks(ir)) == {"footage", "scan", "shards", "loop", "curate_shard", "curate"} | ENDED


def test_retraining_trains_only_behind_the_decision(tmp_path: Path) -> None:
    ir, _ = compiled(full_recipe(), tmp_path, kind="retrain")
    (first,) = [dag["tasks"] for dag in dags(ir) if "resolve-data" in dag["tasks"]]
    assert len(first) == 2
    (condition, changed) = next((t["triggerPolicy"]["condition"], t["componentRef"]["name"]) for n, t in first.items() if "condition" in n)
    assert "changed" in condition
    assert "resolve-data-Output" in condition, "kfp.local cannot evaluate a condition on a named output"
    assert {"register", "pretrain-1", "align-1"} <= set(tasks(ir))
    changed = ir["components"][changed]["dag"]["tasks"]
    assert "register" not in changed, "nothing is trained before the clips were compared with the champion's"
    gates = [task["triggerPolicy"]["condition"] for task in changed.values() if task.get("triggerPolicy", {}).get("condition")]
    assert len(gates) == 1 or all("compare-data-Output" in gate for gate in gates)
    for task in tasks(ir).values():
        assert not task.get("cachingOptions", {}).get("cacheKey"), "a key fixed today would hide tomorrow's data"


def test_a_pipeline_is_not_written_over_something_that_is_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.yaml"):
        compile_pipeline(minimal_recipe(), tmp_path / "pipeline.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        compile_pipeline(minimal_recipe(), tmp_path / "file" / "pipeline.yaml")


def test_the_recipe_of_the_laptop_compiles(tmp_path: Path) -> None:
    path = ROOT / "configs" / "tiny.yaml"
    if not path.is_file():
        pytest.skip("configs/tiny.yaml is not there yet")
    recipe = load_recipe(path)
    keys = node_keys(recipe, roots_of(recipe))
    ir, _ = compiled(recipe, tmp_path, roots_of(recipe))
    assert tasks(ir)["evaluate"]["cachingOptions"]["cacheKey"] == keys["evaluate"]
    assert not [e for e in ir["deploymentSpec"]["executors"].values() if e["container"]["resources"].get("accelerator")]
