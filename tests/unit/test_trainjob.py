"""What is sent to a cluster for a stage of many nodes, and what a job's status means to us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mugv.errors import EXIT_USER, UserError
from mugv.platform.launch import LaunchSpec
from mugv.platform.trainjob import (
    KEY_LABEL,
    Ending,
    JobId,
    Phase,
    ending_of,
    owner_of,
    phase_of,
    train_job,
    why_it_waits,
)
from mugv.recipe import Recipe, load_recipe
from mugv.recipe.resources import JobSettings, Pool, Toleration
from mugv.stages.graph import build_graph
from mugv.stages.placement import Layout, layout_of, pool_of, task_pool

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((Path(__file__).parent / "trainjob_schema.json").read_text())
ID = JobId("run-1", "pretrain-3", "f" * 64)
QUEUED = JobSettings(queue="gpus", priority="release", topology="rack")


def job_of(settings: JobSettings = JobSettings(), identity: JobId = ID, **fields: Any) -> dict[str, Any]:
    return train_job(LaunchSpec("m", image="i", **fields), identity, settings, "mugv")


def pod_patch(job: dict[str, Any]) -> dict[str, Any]:
    patch = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    return dict(patch["template"]["spec"]["template"])


def test_the_train_job_of_the_published_recipe_has_the_api_s_form() -> None:
    recipe = load_recipe(ROOT / "configs" / "mugv-10b.yaml")
    launch = LaunchSpec("mugv.stages.worker", ("job.json",), 64, 8, recipe.resources.image_train, recipe.resources.train)
    owner = owner_of({"MUGV_POD_NAME": "task", "MUGV_POD_UID": "1-2"})
    job = train_job(launch, ID, QUEUED, "mugv", owner)
    jsonschema.validate(job, SCHEMA)
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], launch.world) == (64, 8, 512)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod_patch(job)["spec"]["nodeSelector"] == {"mugv.io/pool": "h100"}
    assert job["metadata"]["ownerReferences"] == [owner]


def test_queue_priority_and_topology_stand_where_kueue_reads_them() -> None:
    job = job_of(QUEUED)
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert labels["kueue.x-k8s.io/priority-class"] == "release"
    assert pod_patch(job)["metadata"]["annotations"] == {"kueue.x-k8s.io/podset-required-topology": "rack"}
    plain = job_of()
    assert not [label for label in plain["metadata"]["labels"] if "kueue" in label]
    assert "annotations" not in pod_patch(plain)["metadata"]


def test_devices_shared_memory_and_nccl_s_settings_reach_every_node() -> None:
    pool = Pool(
        gpus=8, devices={"rdma/ib": 8}, shared_memory="64Gi", environment={"NCCL_IB_HCA": "mlx5"}, tolerations=(Toleration(key="k"),)
    )
    job = job_of(pool=pool, processes_per_node=8, environment={"MUGV_STATE": "/mugv"})
    jsonschema.validate(job, SCHEMA)
    for amounts in job["spec"]["trainer"]["resourcesPerNode"].values():
        assert (amounts["rdma/ib"], amounts["nvidia.com/gpu"]) == ("8", "8")
    assert job["spec"]["trainer"]["env"] == [{"name": "MUGV_STATE", "value": "/mugv"}, {"name": "NCCL_IB_HCA", "value": "mlx5"}]
    assert pod_patch(job)["spec"]["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}}]


def test_the_schema_refuses_a_field_that_the_api_does_not_have() -> None:
    job = job_of(pool=Pool(tolerations=(Toleration(key="k"),)))
    jsonschema.validate(job, SCHEMA)
    job["spec"]["podTemplateOverrides"] = []
    with pytest.raises(jsonschema.ValidationError, match="podTemplateOverrides"):
        jsonschema.validate(job, SCHEMA)


def test_a_second_try_has_the_name_of_the_first_and_nobody_else_has() -> None:
    assert JobId("run-1", "pretrain-3", "f" * 64).name == ID.name
    others = [JobId("run-2", "pretrain-3", "f" * 64), JobId("run-1", "pretrain-2", "f" * 64), JobId("run-1", "pretrain-3", "e" * 64)]
    assert len({ID.name, *(other.name for other in others)}) == 4


@pytest.mark.parametrize("node", ["train_vae", "pretrain-10", "a" * 80, "Ünïcode-1", "--"])
def test_every_name_is_one_that_a_pod_s_host_name_has_room_for(node: str) -> None:
    name = JobId("by-hand/../x y", node, "k").name
    assert len(f"{name}-node-0-511") <= 63
    jsonschema.validate(job_of(identity=JobId("by-hand/../x y", node, "k")), SCHEMA)
    assert not name.endswith("-")


def test_a_job_without_an_image_is_explained() -> None:
    with pytest.raises(UserError, match="needs an image"):
        train_job(LaunchSpec("m"), ID, JobSettings(), "mugv")


def test_launcher_and_cluster_speak_of_the_same_runtime() -> None:
    runtime = yaml.safe_load((ROOT / "manifests" / "base" / "runtime.yaml").read_text())
    job = job_of()
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["spec"]["runtimeRef"]["kind"] == runtime["kind"]
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node", "the patch of nodes and tolerations names this job"
    pod = node["template"]["spec"]["template"]["spec"]
    assert {v["name"] for v in pod["volumes"]} >= {"state", "shm"}, "the patch of /dev/shm names this volume"
    assert pod["terminationGracePeriodSeconds"] > load_recipe(ROOT / "configs/mugv-10b.yaml").resources.grace_seconds
    assert (node["template"]["spec"]["backoffLimit"], pod["restartPolicy"]) == (0, "Never"), "a lost process is told at once"


def recipe_of(*changes: str) -> Recipe:
    return load_recipe(ROOT / "configs" / "mugv-10b-finetune.yaml", list(changes))


@pytest.mark.parametrize(
    ("changes", "stage", "layout"),
    [
        ([], "pretrain", Layout(1, 8)),
        (["parallel.world=16"], "pretrain", Layout(2, 8)),
        (["parallel.world=16", "resources.gpus_per_node=4"], "sft", Layout(4, 4)),
        (["parallel.world=16", "resources.gpus_per_node=0"], "align", Layout(2, 8)),
        (["parallel.world=16"], "encode", Layout(1, 1)),
        (["parallel.world=16"], "evaluate", Layout(1, 1)),
        (["parallel.world=16", "weights.vae=/somewhere"], "train_vae", Layout(1, 1)),
    ],
)
def test_nodes_and_processes_follow_the_recipe(changes: list[str], stage: str, layout: Layout) -> None:
    recipe = recipe_of(*changes)
    assert layout_of(recipe, stage, recipe.resources.train) == layout


def test_a_task_that_starts_a_job_holds_no_gpu() -> None:
    recipe = recipe_of("parallel.world=16")
    asked = {node.name: task_pool(recipe, node).gpus for node in build_graph(recipe) if node.pool != "data"}
    assert asked["pretrain-0"] == 0
    assert asked["encode"] == asked["evaluate"] == 1
    (node,) = [n for n in build_graph(recipe) if n.name == "pretrain-0"]
    assert task_pool(recipe, node).node_selector == recipe.resources.data.node_selector
    assert pool_of(recipe, node).gpus == 8
    longer = recipe_of("parallel.world=16", "resources.train.deadline=9000", "resources.train.retries=7")
    assert (task_pool(longer, node).deadline, task_pool(longer, node).retries) == (9000.0, 7), "it is tried as often as the training"


@pytest.mark.parametrize(
    ("changes", "stage", "gpus"),
    [
        ([], "curate_shard", 0),
        (["curation.motion.method=raft", "curation.motion.weights=/w"], "curate_shard", 1),
        (["curation.aesthetic={clip: /c, head: /h}"], "curate_shard", 1),
        ([], "curate", 0),
    ],
)
def test_a_data_task_asks_for_a_gpu_where_a_network_measures(changes: list[str], stage: str, gpus: int) -> None:
    recipe = recipe_of("resources.data.gpus=4", *changes)
    node = next(n for n in build_graph(recipe) if n.stage == stage)
    assert task_pool(recipe, node).gpus == gpus


def condition(kind: str, value: str = "True", **more: str) -> dict[str, str]:
    return {"type": kind, "status": value, **more}


def counts(**more: int) -> dict[str, Any]:
    return {"name": "node", "ready": 0, "succeeded": 0, "failed": 0, "active": 0, "suspended": 0, **more}


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ({}, Phase.STARTING),
        ({"conditions": [condition("Suspended")]}, Phase.QUEUED),
        ({"conditions": [condition("Suspended", "False")], "jobsStatus": [counts(active=1)]}, Phase.STARTING),
        ({"conditions": [condition("Suspended", "False")], "jobsStatus": [counts(active=1, ready=1)]}, Phase.RUNNING),
        ({"conditions": [condition("Suspended"), condition("Complete")]}, Phase.COMPLETE),
        ({"conditions": [condition("Failed")], "jobsStatus": [counts(failed=1)]}, Phase.FAILED),
        ({"conditions": [condition("Failed", "False")], "jobsStatus": [counts(ready=1)]}, Phase.RUNNING),
    ],
)
def test_a_status_means_what_the_trainer_means_by_it(status: dict[str, Any], phase: Phase) -> None:
    assert phase_of({"spec": {}, "status": status}) is phase


def pod(name: str, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": status}


def waiting(reason: str, message: str = "", image: str = "r/none:1") -> dict[str, Any]:
    return {"image": image, "state": {"waiting": {"reason": reason, "message": message}}}


JOB = {"metadata": {"labels": {}}, "spec": {}, "status": {"jobsStatus": []}}
IN_QUEUE = {
    "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
    "spec": {"suspend": True},
    "status": {"conditions": [condition("Suspended")]},
}
UNSCHEDULABLE = condition(
    "PodScheduled", "False", reason="Unschedulable", message="0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
)


@pytest.mark.parametrize(
    ("job", "pods", "workload", "events", "said", "image", "hopeless"),
    [
        (JOB, [pod("a", conditions=[UNSCHEDULABLE])], None, [], "Unschedulable: 0/3 nodes are available", False, False),
        (
            JOB,
            [pod("a"), pod("b", containerStatuses=[waiting("ImagePullBackOff", "not found")])],
            None,
            [],
            "ImagePullBackOff r/none:1: not found (1 of 2 pods)",
            True,
            False,
        ),
        (JOB, [pod("a", containerStatuses=[waiting("InvalidImageName")])], None, [], "InvalidImageName r/none:1", True, True),
        (
            JOB,
            [pod("a", containerStatuses=[waiting("CreateContainerConfigError", 'secret "mugv-store" not found')])],
            None,
            [],
            'CreateContainerConfigError: secret "mugv-store" not found',
            False,
            False,
        ),
        (JOB, [pod("a", containerStatuses=[waiting("ContainerCreating")])], None, [], "1 pods, none of which says why", False, False),
        (JOB, [], None, [{"type": "Warning", "reason": "FailedCreate", "message": "exceeded quota"}], "exceeded quota", False, False),
        (JOB, [], None, [], "no pod was made yet", False, False),
        ({**JOB, "status": {}}, [], None, [], "the Trainer's controller has not answered", False, False),
        (IN_QUEUE, [], None, [], "queue gpus: Kueue has made no Workload of it", False, False),
        (
            IN_QUEUE,
            [],
            {"status": {"conditions": [condition("QuotaReserved", "False", message="insufficient quota for nvidia.com/gpu")]}},
            [],
            "queue gpus: insufficient quota",
            False,
            False,
        ),
        (IN_QUEUE, [], {"status": {}}, [], "Kueue has not decided", False, False),
        ({**IN_QUEUE, "metadata": {}}, [], None, [], "it is suspended and in no queue", False, False),
    ],
)
def test_why_a_job_waits_is_said_by_the_nearest_cause(
    job: Any, pods: Any, workload: Any, events: Any, said: str, image: bool, hopeless: bool
) -> None:
    wait = why_it_waits(job, pods, workload, events)
    assert said in wait.reason
    assert (wait.image, wait.hopeless) == (image, hopeless)


def ended(code: int, at: str, reason: str = "Error") -> dict[str, Any]:
    return {"containerStatuses": [{"name": "node", "state": {"terminated": {"exitCode": code, "finishedAt": at, "reason": reason}}}]}


FAILED = {"status": {"conditions": [condition("Failed", reason="JobFailed", message="jobset failed")]}}


@pytest.mark.parametrize(
    ("pods", "ending"),
    [
        ([pod("b", **ended(1, "2")), pod("a", **ended(137, "1", "OOMKilled"))], Ending(137, "pod a ended with exit code 137 (OOMKilled)")),
        ([pod("a", **ended(143, "1")), pod("b", **ended(2, "3"))], Ending(EXIT_USER, "pod b ended with exit code 2")),
        (
            [pod("a", conditions=[condition("DisruptionTarget", reason="PreemptionByScheduler")], **ended(143, "1"))],
            Ending(143, "pod a was displaced (PreemptionByScheduler) with exit code 143"),
        ),
        ([pod("a", phase="Failed", reason="Evicted", message="low on memory")], Ending(1, "pod a failed: Evicted: low on memory")),
        ([pod("a", **ended(0, "1"))], Ending(None, "JobFailed: jobset failed")),
        ([], Ending(None, "JobFailed: jobset failed")),
    ],
)
def test_how_a_job_failed_is_told_by_the_process_that_ended_first(pods: list[dict[str, Any]], ending: Ending) -> None:
    assert ending_of(FAILED, pods) == ending


def test_a_runtime_that_the_trainer_does_not_know_is_the_user_s_error() -> None:
    told = {"status": {"conditions": [condition("Failed", reason="TrainingRuntimeNotSupported", message="no such runtime")]}}
    assert ending_of(told, []).by_user


def test_without_the_downward_api_a_job_has_no_owner() -> None:
    assert owner_of({"MUGV_POD_NAME": "task"}) is None


def test_both_marks_of_a_job_are_labels_that_kubernetes_takes() -> None:
    labels = JobId("a run/with:everything " * 9, "pretrain-0", "f" * 64).labels
    assert len(labels[KEY_LABEL]) == 63
    assert all(len(value) <= 63 and value.strip("-_.") == value for value in labels.values())
