"""What we send to a cluster is accepted by Kubernetes' own validation, and what is wrong in it is refused."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, watch

from mugv.platform.launch import LaunchSpec
from mugv.platform.trainjob import JobId, train_job
from mugv.recipe import load_recipe
from mugv.stages.graph import build_graph
from mugv.stages.placement import layout_of, pool_of

ROOT = Path(__file__).resolve().parents[2]
CUSTOM = ("trainer.kubeflow.org", "kueue.x-k8s.io")
TRAINJOBS = ("trainer.kubeflow.org", "v1alpha1", "mugv", "trainjobs")
SCHEDULES = ("kubeflow.org", "v1beta1", "mugv", "scheduledworkflows")
Change = Callable[[dict[str, Any]], object]


def job_of_the_published_recipe(node: str = "pretrain-1", run: str = "objects") -> dict[str, Any]:
    job = {"queue": "mugv-train", "priority": "mugv-release", "topology": "cloud.provider.com/topology-rack"}
    pool = {"devices": {"rdma/ib": 8}, "shared_memory": "64Gi", "environment": {"NCCL_SOCKET_IFNAME": "eth0"}, "job": job}
    recipe = load_recipe(ROOT / "configs/mugv-10b.yaml", [f"resources.train.{key}={value}" for key, value in pool.items()])
    (found,) = [n for n in build_graph(recipe) if n.name == node]
    pool_, layout = pool_of(recipe, found), layout_of(recipe, found.stage, pool_of(recipe, found))
    spec = LaunchSpec("mugv.stages.worker", ("/mugv/a.json",), layout.nodes, layout.processes_per_node, recipe.resources.image_train, pool_)
    return train_job(spec, JobId(run, node, "f" * 64), pool_.job, "mugv", {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"})


def custom(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m for m in manifests if m["apiVersion"].split("/")[0] in CUSTOM]


def plural(kind: str) -> str:
    return {"Topology": "topologies", "WorkloadPriorityClass": "workloadpriorityclasses"}.get(kind, f"{kind.lower()}s")


def create(objects: client.CustomObjectsApi, body: dict[str, Any]) -> dict[str, Any]:
    group, version = body["apiVersion"].split("/")
    options = {"field_validation": "Strict"}
    if "namespace" in body["metadata"]:
        where = (group, version, body["metadata"]["namespace"], plural(body["kind"]))
        return dict(objects.create_namespaced_custom_object(*where, body, **options))
    return dict(objects.create_cluster_custom_object(group, version, plural(body["kind"]), body, **options))


def test_every_custom_object_of_the_gpu_overlay_is_accepted(objects, defined, manifests) -> None:
    found = custom(manifests)
    assert {m["kind"] for m in found} >= {"ClusterTrainingRuntime", "ClusterQueue", "LocalQueue", "ResourceFlavor", "WorkloadPriorityClass"}
    for body in found:
        renamed = {**body, "metadata": {**body["metadata"], "name": f"{body['metadata']['name']}-here"}}
        assert create(objects, renamed)["metadata"]["uid"]


def test_the_train_job_of_512_gpus_is_accepted_and_watched(objects, defined) -> None:
    seen: list[tuple[str, str]] = []
    body = job_of_the_published_recipe()

    def look() -> None:
        for event in watch.Watch().stream(objects.list_namespaced_custom_object, *TRAINJOBS, timeout_seconds=4):
            if event["object"]["metadata"]["name"] == body["metadata"]["name"]:
                seen.append((event["type"], event["object"].get("status", {}).get("conditions", [{}])[-1].get("type", "")))
            if event["type"] == "DELETED":
                return

    looking = threading.Thread(target=look)
    looking.start()
    made = create(objects, body)
    assert made["spec"]["managedBy"] == "trainer.kubeflow.org/trainjob-controller", "the server filled in the defaults"
    name = made["metadata"]["name"]
    condition = {"type": "Suspended", "status": "True", "reason": "Suspended", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    objects.patch_namespaced_custom_object_status(*TRAINJOBS, name, {"status": {"conditions": [condition]}})
    objects.delete_namespaced_custom_object(*TRAINJOBS, name)
    looking.join(30)
    assert [kind for kind, _ in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert seen[1][1] == "Suspended"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (lambda job: job["spec"]["trainer"].update(numNodes="64"), 422, "numNodes"),
        (lambda job: job["spec"]["trainer"].update(nproc=8), 400, 'unknown field "spec.trainer.nproc"'),
        (lambda job: job["spec"].update(podTemplateOverrides=[]), 400, 'unknown field "spec.podTemplateOverrides"'),
        (lambda job: job["spec"].pop("runtimeRef"), 422, "spec.runtimeRef: Required value"),
        (lambda job: job["spec"]["trainer"]["resourcesPerNode"]["limits"].update(memory="8 GB"), 422, "memory"),
        (lambda job: job["spec"].update(managedBy="us"), 422, "ManagedBy must be"),
        (lambda job: job["metadata"].update(name="1-job"), 422, "RFC 1035"),
        (lambda job: job["spec"]["runtimePatches"][0].pop("manager"), 422, "manager: Required value"),
        (lambda job: job["spec"].update(activeDeadlineSeconds=0), 422, "greater than or equal to 1"),
    ],
)
def test_a_wrong_train_job_is_refused(objects, defined, change: Change, status: int, said: str) -> None:
    job = job_of_the_published_recipe(run="wrong")
    change(job)
    with pytest.raises(client.ApiException) as refused:
        create(objects, job)
    assert refused.value.status == status
    assert said in str(refused.value.body).replace("\\", "")


def test_what_was_started_cannot_be_changed(objects, defined) -> None:
    made = create(objects, job_of_the_published_recipe(run="changed"))
    with pytest.raises(client.ApiException, match="field is immutable"):
        objects.patch_namespaced_custom_object(*TRAINJOBS, made["metadata"]["name"], {"spec": {"trainer": {"numNodes": 32}}})


@pytest.mark.parametrize(
    ("kind", "change", "status", "said"),
    [
        ("ClusterTrainingRuntime", lambda o: o["spec"]["mlPolicy"].update(mpi={}), 422, "Only one of the policy"),
        ("ClusterTrainingRuntime", lambda o: o["spec"]["mlPolicy"]["torch"].update(numProcPerNode="all"), 422, "NumProcPerNode must be"),
        ("ClusterTrainingRuntime", lambda o: o["spec"]["template"]["spec"]["replicatedJobs"][0].pop("name"), 422, "name: Required value"),
        ("ClusterQueue", lambda o: o["spec"].update(queueingStrategy="FIFO"), 422, "Unsupported value"),
        ("ClusterQueue", lambda o: o["spec"]["resourceGroups"][0]["coveredResources"].pop(), 422, "same number of resources"),
        ("ClusterQueue", lambda o: o["spec"].update(cohort="a"), 400, 'unknown field "spec.cohort"'),
        ("LocalQueue", lambda o: o["spec"].update(clusterQueue="Mugv_Train"), 422, "clusterQueue"),
        ("ResourceFlavor", lambda o: o["spec"]["tolerations"][0].update(operator="Is"), 422, "supported toleration values"),
        ("WorkloadPriorityClass", lambda o: o.update(value="high"), 422, "value"),
    ],
)
def test_a_wrong_object_of_the_overlay_is_refused(objects, defined, manifests, kind: str, change: Change, status: int, said: str) -> None:
    body = copy.deepcopy(next(m for m in custom(manifests) if m["kind"] == kind))
    body["metadata"]["name"] += "-wrong"
    change(body)
    with pytest.raises(client.ApiException) as refused:
        create(objects, body)
    assert refused.value.status == status
    assert said in str(refused.value.body).replace("\\", "")


def scheduled() -> dict[str, Any]:
    """What Kubeflow's API server makes of `mugv schedule`: the parameters of mugv.platform.kfp_client.schedule."""
    spec = {
        "enabled": True,
        "maxConcurrency": 1,
        "noCatchup": True,
        "trigger": {"cronSchedule": {"cron": "0 0 3 * * *"}},
        "workflow": {"parameters": [{"name": "recipe", "value": "{}"}]},
    }
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "ScheduledWorkflow",
        "metadata": {"name": "nightly", "namespace": "mugv"},
        "spec": spec,
    }


def test_a_schedule_is_accepted(objects, defined) -> None:
    assert create(objects, scheduled())["spec"]["trigger"]["cronSchedule"]["cron"] == "0 0 3 * * *"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (lambda spec: spec.update(maxConcurrency=11), 422, "less than or equal to 10"),
        (lambda spec: spec["trigger"]["cronSchedule"].update(cron=3), 422, "cron"),
        (lambda spec: spec.update(cron="0 0 3 * * *"), 400, 'unknown field "spec.cron"'),
    ],
)
def test_a_wrong_schedule_is_refused(objects, defined, change: Change, status: int, said: str) -> None:
    body = scheduled()
    body["metadata"]["name"] = "wrong"
    change(body["spec"])
    with pytest.raises(client.ApiException) as refused:
        create(objects, body)
    assert refused.value.status == status
    assert said in str(refused.value.body).replace("\\", "")
