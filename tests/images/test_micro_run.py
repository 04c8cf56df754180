"""The micro recipe as a cluster runs it: compiled, each task a container of its own image, object store and MLflow over the network.

The tests play the kubelet's part: they give a task what its pod would get (variables of secrets and config maps, the state volume,
the pod's own empty volumes), read from the compiled pipeline; everything else is the images' own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker as docker_sdk
import pytest
import yaml
from kfp import components, local

from mugv.platform.registry import Registry
from mugv.recipe import load_recipe, recipe_to_json
from mugv.stages.graph import build_graph
from tests.images.conftest import BUCKET, CONFINED, IMAGES, KEYS, ROOT, VOLUMES, Network, docker, mounted

MICRO = ROOT / "tests" / "pipeline" / "micro.yaml"
RUN = "docker-run"


def given(network: Network) -> dict[str, str]:
    """What the secrets and config maps of the manifests hold, by variable."""
    store = {"MUGV_STORE": f"s3://{BUCKET}/store", "MUGV_S3_ENDPOINT": "http://object-store:8333", "MUGV_STATE": "/mugv"}
    return {**KEYS, **store, "MLFLOW_TRACKING_URI": "http://mlflow:5000"}


def compiled(recipe: Path, network: Network, folder: Path) -> Path:
    """The pipeline, compiled by the command line on this machine, which reaches the store under another address."""
    output = folder / "pipeline.yaml"
    changes = [f"resources.image_{pool}={image}" for pool, image in IMAGES.items()]
    command = [sys.executable, "-m", "mugv.cli.main", "compile", "--recipe", str(recipe), "-o", str(output)]
    command += [part for change in changes for part in ("--set", change)]
    environment = {**os.environ, **given(network), "MUGV_S3_ENDPOINT": network.store, "MUGV_STATE": str(folder / "state")}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return output


def as_pods(pipeline: Path, network: Network) -> tuple[Path, dict[str, Any]]:
    """The pipeline with each task's variables in it, as the backend would write them; and the volumes that all tasks ask for."""
    documents = list(yaml.safe_load_all(pipeline.read_text()))
    ir, platform = documents
    values, volumes = given(network), {}
    for name, executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
        container = ir["deploymentSpec"]["executors"][name]["container"]
        wanted = [
            (source, key["envVar"]) for kind in ("secretAsEnv", "configMapAsEnv") for source in executor[kind] for key in source["keyToEnv"]
        ]
        absent = [variable for source, variable in wanted if variable not in values and not source.get("optional")]
        assert not absent, f"{name}: no secret and no config map holds {absent}"
        found = {variable: values[variable] for _, variable in wanted if variable in values}
        found |= {field["name"]: RUN for field in executor["fieldPathAsEnv"] if "runid" in field["fieldPath"]}
        container.setdefault("env", []).extend({"name": k, "value": v} for k, v in found.items())
        mounts = {m["mountPath"]: m.get("volumeName", "shm") for m in executor.get("emptyDirMounts", []) if m["mountPath"] != "/dev/shm"}
        volumes[name] = (mounts, {m["mountPath"]: m["constant"] for m in executor["pvcMount"]}, executor["securityContext"])
    assert len({json.dumps(v, sort_keys=True) for v in volumes.values()}) == 1, "kfp.local gives all tasks the same volumes"
    path = pipeline.with_name("pods.yaml")
    path.write_text(yaml.safe_dump(ir))
    empty, claims, security = next(iter(volumes.values()))
    return path, {"empty": sorted(empty), "claims": claims, "security": security}


@contextmanager
def writable_by_all() -> Iterator[None]:
    """KFP makes the folders of its artifacts as this process's user, and the tasks write there as theirs."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def run(pods: Path, asked: dict[str, Any], network: Network, state: str, folder: Path) -> None:
    assert asked["claims"] == {"/mugv": "mugv-state"}
    assert asked["security"] == {"runAsNonRoot": True}
    runner = local.DockerRunner(
        network_mode=network.name,
        user="10001:10001",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs=dict.fromkeys(asked["empty"], "uid=10001,gid=10001,mode=0755"),
        mounts=[docker_sdk.types.Mount("/mugv", state, no_copy=True)],
    )
    with writable_by_all():
        root = folder / "kfp"
        root.mkdir(mode=0o777)
        local.init(runner, pipeline_root=str(root), raise_on_error=True)
        components.load_component_from_file(str(pods))()


def records(state: str) -> dict[str, dict[str, Any]]:
    """The run's record of each stage, read from the state volume."""
    code = f"import json, glob; print(json.dumps([json.load(open(f)) for f in glob.glob('/mugv/runs/{RUN}/stages/*.json')]))"
    text = docker("run", "--rm", "--mount", mounted(state), IMAGES["data"], "python", "-c", code).stdout
    return {record["node"]: record for record in json.loads(text)}


@pytest.mark.filterwarnings("ignore")
def test_the_micro_recipe_runs_whole_with_every_task_in_its_own_image(
    network: Network, state_volume: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pods, asked = as_pods(compiled(MICRO, network, tmp_path), network)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    run(pods, asked, network, state_volume, tmp_path)
    said = capfd.readouterr().out
    # A container that ends too fast is told to be a success: what counts is what the stages wrote.
    found = records(state_volume)
    nodes = {node.name for node in build_graph(load_recipe(MICRO))}
    assert {name: record["status"] for name, record in found.items()} == dict.fromkeys(nodes, "ran"), said[-4000:]
    with capfd.disabled():
        for name, record in sorted(found.items(), key=lambda item: item[1]["started"]):
            start = record["timing"]["entered"] - record["timing"]["process"]
            print(f"  {name:16s} start {start:5.2f} s   work {record['stage_seconds']:6.2f} s")
    (version,) = Registry(network.mlflow).versions("micro")
    commit = docker("image", "inspect", "-f", '{{index .Config.Labels "org.opencontainers.image.revision"}}', IMAGES["data"]).stdout.strip()
    assert version.tags["mugv.git.commit"] + "-dirty" * (version.tags["mugv.git.dirty"] == "true") == commit, (
        "a model's lineage leads to the image's source"
    )


def test_a_state_volume_that_the_user_may_not_write_is_told_in_one_line(network: Network) -> None:
    """A volume as a provisioner leaves it: root's."""
    name = f"{network.name}-of-root"
    docker("volume", "create", name)
    try:
        variables = [part for k, v in given(network).items() for part in ("-e", f"{k}={v}")]
        code = "import sys, mugv.stages.execute as e; e.component_main('sample_footage', 0, sys.stdin.read(), {}, '/tmp/o')"
        recipe = recipe_to_json(load_recipe(MICRO))
        options = ["--network", network.name, *CONFINED, *VOLUMES, "--mount", mounted(name), *variables]
        done = docker("run", "--rm", "-i", *options, IMAGES["data"], "python", "-c", code, stdin=recipe, check=False)
    finally:
        docker("volume", "rm", "-f", name)
    said = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == 2, said
    assert len(said) == 1, said
    assert re.search(r"/mugv: user 10001 may not write there, it belongs to 0:0 .* Job mugv-state-rights", said[0]), said
