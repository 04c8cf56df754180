"""The launcher: what it starts here really runs, and what it would send to a cluster has the right form."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mugv.errors import UserError
from mugv.platform.launch import LaunchSpec, run_local, train_job
from mugv.recipe import load_recipe
from mugv.recipe.schema import Pool, Toleration

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((Path(__file__).parent / "trainjob_schema.json").read_text())
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"}
PROBE = "launch_probe"


def spec(*arguments: str, **fields: Any) -> LaunchSpec:
    return LaunchSpec(PROBE, arguments, **fields)


def test_two_processes_find_each_other(tmp_path: Path) -> None:
    out = tmp_path / "seen.json"
    assert run_local(spec("end", str(out), processes_per_node=2, environment={"PROBE": "set"}), ENVIRONMENT) == 0
    assert json.loads(out.read_text()) == {"world": 2, "sum": 3, "rank": 0, "variable": "set"}


def test_a_failure_is_not_swallowed(tmp_path: Path) -> None:
    assert run_local(spec("fail", str(tmp_path / "seen.json")), ENVIRONMENT) == 1


def test_an_interrupt_reaches_the_process_once(tmp_path: Path) -> None:
    out = tmp_path / "state"
    program = (
        "import os, sys; from mugv.platform.launch import *; "
        f"sys.exit(run_local(LaunchSpec({PROBE!r}, ('wait', {str(out)!r})), dict(os.environ)))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env=ENVIRONMENT, cwd=ROOT)
    deadline = time.monotonic() + 240
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert out.read_text() == "interrupted"


def test_several_nodes_are_refused_on_one_machine() -> None:
    with pytest.raises(UserError, match="this machine is one node, the recipe's layout needs 64"):
        run_local(spec(nodes=64, processes_per_node=8))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"processes_per_node": 0}, "processes_per_node must be at least 1"),
        ({"processes_per_node": 9, "pool": Pool(gpus=8)}, "9 processes a node do not fit on its 8 GPUs"),
    ],
)
def test_an_impossible_start_is_refused_before_it_costs_anything(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        spec(**fields)


def test_the_train_job_of_the_published_recipe_has_the_api_s_form() -> None:
    recipe = load_recipe(ROOT / "configs" / "mugv-10b.yaml")
    launch = LaunchSpec(
        "mugv.stages.worker", ("job.json",), 64, 8, recipe.resources.image_train, recipe.resources.train, {"MUGV_STATE": "/mugv"}
    )
    job = train_job(launch, "pretrain-3", queue="mugv-train")
    jsonschema.validate(job, SCHEMA)
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], launch.world) == (64, 8, 512)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    pod = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["spec"]["nodeSelector"] == {"mugv.io/pool": "h100"}
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "mugv-train"}


def test_the_schema_refuses_a_field_that_the_api_does_not_have() -> None:
    job = train_job(LaunchSpec("m", image="i", pool=Pool(tolerations=(Toleration(key="k"),))), "a")
    jsonschema.validate(job, SCHEMA)
    job["spec"]["podTemplateOverrides"] = []
    with pytest.raises(jsonschema.ValidationError, match="podTemplateOverrides"):
        jsonschema.validate(job, SCHEMA)


def test_a_job_that_kubernetes_would_refuse_is_explained() -> None:
    with pytest.raises(UserError, match="lower case letters"):
        train_job(LaunchSpec("m", image="i"), "Pretrain_0")
    with pytest.raises(UserError, match="needs an image"):
        train_job(LaunchSpec("m"), "pretrain-0")


def test_launcher_and_cluster_speak_of_the_same_runtime() -> None:
    import yaml

    runtime = yaml.safe_load((ROOT / "manifests" / "base" / "runtime.yaml").read_text())
    job = train_job(LaunchSpec("m", image="i"), "a")
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["spec"]["runtimeRef"]["kind"] == runtime["kind"]
    names = [j["name"] for j in runtime["spec"]["template"]["spec"]["replicatedJobs"]]
    assert names == ["node"], "the patch of nodes and tolerations names this job"
