"""The whole life of a TrainJob with its task, under our own role, against Kubernetes' own API server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from player import TRAINJOBS, Player, condition, counts
from server import Front

from mugv.errors import EXIT_USER, UserError
from mugv.platform.launch import LaunchSpec
from mugv.platform.trainjob import Ending, JobId, train_job
from mugv.platform.trainjob_api import Api, UnreachableError
from mugv.platform.trainjob_run import JobRun
from mugv.recipe.resources import JobSettings

HERE = Path(__file__).parent
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "task-1", "uid": "1", "controller": False, "blockOwnerDeletion": False}


@pytest.fixture(autouse=True)
def _environment(as_user: Any, defined: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUGV_KUBECONFIG", str(as_user("launcher")))
    monkeypatch.setenv("MUGV_POD_NAMESPACE", "mugv")


def manifest(run: str, settings: JobSettings = JobSettings(), owner: dict[str, Any] | None = OWNER, key: str = "") -> dict[str, Any]:
    return train_job(LaunchSpec("m", image="r/i:1", nodes=2), JobId(run, "pretrain-0", key or run), settings, "mugv", owner)


class Trying:
    """A JobRun in a thread, with what it said."""

    def __init__(self, job: dict[str, Any], **options: Any) -> None:
        self.lines: list[str] = []
        options = {"start_deadline": 60.0, "retries": 2, "poll": 0.05, "back_off": 0.01, **options}
        self.job_run = JobRun(Api(), job, options.pop("owner", OWNER), say=self.lines.append, **options)
        self.ending: Ending | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.ending = self.job_run.run()
        except BaseException as error:
            self.error = error

    def ended(self) -> Trying:
        self.thread.join(30)
        assert not self.thread.is_alive(), self.lines
        return self

    def says(self, text: str) -> None:
        until = time.monotonic() + 20
        while not any(text in line for line in self.lines):
            assert time.monotonic() < until, (text, self.lines, self.error)
            assert self.error is None, self.lines
            time.sleep(0.02)


@pytest.fixture
def player(objects: client.CustomObjectsApi, request: pytest.FixtureRequest) -> Iterator[Callable[[dict[str, Any]], Player]]:
    made: list[Player] = []

    def of(job: dict[str, Any]) -> Player:
        made.append(Player(objects, job["metadata"]["name"]))
        return made[-1]

    yield of
    for one in made:
        assert one.job() is None, "nothing may be left behind"


def test_made_followed_complete_and_gone(player: Any) -> None:
    job = manifest("whole")
    cluster, task = player(job), Trying(job)
    made = cluster.made()
    assert made["metadata"]["ownerReferences"] == [OWNER]
    cluster.status(jobs=counts(active=1))
    cluster.runs("2026-01-01T00:00:01.1Z step 1\n2026-01-01T00:00:01.2Z step 2\n")
    task.says("step 2")
    Front.logs[f"{cluster.name}-node-0-0-x"] += "2026-01-01T00:00:01.3Z step 3\n"
    task.says("step 3")
    cluster.completes()
    cluster.collected()
    assert task.ended().error is None
    assert task.ending is None
    assert [line for line in task.lines if line.startswith("step")] == ["step 1", "step 2", "step 3"], "each line once"
    assert [line.rpartition(": ")[2] for line in task.lines if line.endswith(("runs", "is complete"))] == ["runs", "is complete"]


def test_a_second_try_goes_on_with_the_job_of_a_task_that_was_killed(player: Any, objects: client.CustomObjectsApi) -> None:
    job = manifest("adopted")
    cluster = player(job)
    objects.create_namespaced_custom_object(*TRAINJOBS, job)
    cluster.runs()
    other = {**OWNER, "name": "task-2", "uid": "2"}
    task = Trying(manifest("adopted", owner=other), owner=other)
    task.says("an earlier try made it")
    assert [o["uid"] for o in cluster.job()["metadata"]["ownerReferences"]] == ["1", "2"], "it must not end with the first pod alone"
    cluster.completes()
    cluster.collected()
    assert task.ended().error is None
    assert not any("made in namespace" in line for line in task.lines)


def test_a_lost_node_makes_the_job_again_and_losses_in_vain_are_counted(player: Any) -> None:
    job, reached = manifest("again"), [0]
    cluster, task = player(job), Trying(job, retries=1, position=lambda: reached[0])
    lost = {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}]}
    before = ""
    for step in (10, 20, 20):
        before = cluster.made(before)["metadata"]["uid"]
        cluster.runs()
        reached[0] = step
        cluster.fails(143, **lost)
        cluster.collected()
    task.ended()
    assert task.ending is not None
    assert task.ending.code == 143
    assert "was displaced (DeletionByTaintManager)" in task.ending.reason
    assert [line.split("(")[-1] for line in task.lines if "made again" in line] == ["1 of 1 without getting further)"] * 2


def test_a_user_s_error_is_not_tried_again(player: Any) -> None:
    job = manifest("user")
    cluster, task = player(job), Trying(job)
    cluster.made()
    cluster.fails(EXIT_USER)
    cluster.collected()
    assert task.ended().ending == Ending(EXIT_USER, f"pod {cluster.name}-node-0-1-x ended with exit code 2")


def test_a_job_that_failed_under_an_earlier_try_is_made_anew(player: Any, objects: client.CustomObjectsApi) -> None:
    job = manifest("stale")
    cluster = player(job)
    first = objects.create_namespaced_custom_object(*TRAINJOBS, job)["metadata"]["uid"]
    cluster.fails(1)
    task = Trying(job)
    task.says("failed under an earlier try")
    cluster.collected()
    cluster.made(first)
    cluster.completes()
    cluster.collected()
    assert task.ended().error is None


def test_displaced_by_kueue_it_waits_and_runs_again(player: Any) -> None:
    job = manifest("displaced")
    cluster, task = player(job), Trying(job)
    cluster.made()
    cluster.runs()
    task.says("runs")
    cluster.status(condition("Suspended", reason="Suspended"))
    task.says("waits in its queue")
    cluster.runs()
    cluster.completes()
    cluster.collected()
    assert task.ended().error is None
    assert task.ending is None


@pytest.mark.parametrize(
    ("pods", "events", "said"),
    [
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}, [], "0/3 nodes"),
        (
            {"containerStatuses": [{"image": "r/i:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]},
            [],
            "ImagePullBackOff r/i:1: not found",
        ),
        (None, [("FailedCreate", 'secret "mugv-store" not found')], "FailedCreate: secret"),
        (None, [], "the Trainer's controller has not answered"),
    ],
)
def test_a_job_that_never_starts_ends_at_its_deadline_with_the_reason(player: Any, pods: Any, events: Any, said: str) -> None:
    job = manifest("never-" + "".join(c for c in said if c.isalpha())[:12])
    cluster, task = player(job), Trying(job, start_deadline=1.5)
    cluster.made()
    if pods:
        cluster.status(jobs=counts(active=1))
        cluster.pod(0, phase="Pending", **pods)
    Front.events = [
        {"involvedObject": {"name": cluster.name}, "type": "Warning", "reason": r, "message": m, "lastTimestamp": "1"} for r, m in events
    ]
    cluster.collected()
    error = task.ended().error
    assert isinstance(error, UserError)
    assert said in str(error)
    assert "start" in str(error)
    assert any(said in line for line in task.lines), "the log says it long before the deadline"


def test_an_image_whose_name_is_none_is_not_waited_for(player: Any) -> None:
    job = manifest("name")
    cluster, task = player(job), Trying(job, start_deadline=3600.0)
    cluster.made()
    cluster.status(jobs=counts(active=1))
    cluster.pod(0, phase="Pending", containerStatuses=[{"image": "R!", "state": {"waiting": {"reason": "InvalidImageName"}}}])
    cluster.collected()
    assert "cannot start: InvalidImageName R!" in str(task.ended().error)


def test_what_kueue_says_is_passed_on(player: Any, objects: client.CustomObjectsApi) -> None:
    job = manifest("queued", JobSettings(queue="there"))
    cluster, task = player(job), Trying(job, start_deadline=4.0)
    made = cluster.made()
    cluster.status(condition("Suspended", reason="Suspended"))
    task.says("Kueue has made no Workload of it")
    owner = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "name": cluster.name, "uid": made["metadata"]["uid"]}
    work = ("kueue.x-k8s.io", "v1beta2", "mugv", "workloads")
    body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": {"name": "w", "ownerReferences": [owner]}, "spec": {}}
    objects.create_namespaced_custom_object(*work, body)
    refused = condition("QuotaReserved", "False", "Pending", "couldn't assign flavors: insufficient quota for nvidia.com/gpu")
    objects.patch_namespaced_custom_object_status(*work, "w", {"status": {"conditions": [refused]}})
    task.says("insufficient quota for nvidia.com/gpu")
    cluster.collected()
    assert "queue there: couldn't assign flavors" in str(task.ended().error)
    objects.delete_namespaced_custom_object(*work, "w")


def test_deleted_by_somebody_it_ends_and_is_not_made_again(player: Any, objects: client.CustomObjectsApi) -> None:
    job = manifest("deleted")
    cluster, task = player(job), Trying(job)
    cluster.made()
    cluster.runs()
    objects.delete_namespaced_custom_object(*TRAINJOBS, cluster.name)
    assert "somebody deleted it" in str(task.ended().error)


def test_two_runs_do_not_write_one_folder(player: Any, objects: client.CustomObjectsApi) -> None:
    other, job = manifest("one", key="same"), manifest("two", key="same")
    first, second = player(other), player(job)
    objects.create_namespaced_custom_object(*TRAINJOBS, other)
    assert "of another run works on the same output" in str(Trying(job).ended().error)
    objects.delete_namespaced_custom_object(*TRAINJOBS, first.name, propagation_policy="Foreground")
    task = Trying(job)
    time.sleep(0.5)
    assert second.job() is None, "the first still saves"
    first.collected()
    second.made()
    second.completes()
    second.collected()
    assert task.ended().error is None


def test_an_api_server_that_is_away_does_not_end_a_training(player: Any) -> None:
    job = manifest("away")
    cluster, task = player(job), Trying(job)
    cluster.made()
    cluster.runs()
    task.says("runs")
    Front.down = True
    task.says("the job goes on, and is asked for again")
    Front.down = False
    cluster.completes()
    cluster.collected()
    assert task.ended().error is None


def test_unreachable_for_too_long_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mugv.platform.trainjob_run.AWAY_SECONDS", 0.1)
    monkeypatch.setattr("mugv.platform.trainjob_run.LEAVE_SECONDS", 0.1)
    Front.down = True
    task = Trying(manifest("unreachable")).ended()
    assert isinstance(task.error, UnreachableError)
    assert "kubectl delete trainjob" in task.lines[-1]


PROGRAM = """
import json, signal, sys
from mugv.platform.trainjob_api import Api
from mugv.platform.trainjob_run import JobRun

def stop(number, frame):
    raise SystemExit(128 + number)

for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, stop)
JobRun(Api(), json.load(sys.stdin), None, 60.0, 0, poll=0.1).run()
"""


def started(job: dict[str, Any]) -> subprocess.Popen[str]:
    import json

    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    return process


def test_a_terminated_run_takes_its_job_with_it(player: Any) -> None:
    job = manifest("terminated")
    cluster, process = player(job), started(job)
    cluster.made()
    cluster.runs()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert "deletionTimestamp" in cluster.job()["metadata"], "it is there until its pods have saved"
    cluster.collected()
    assert process.stdout
    assert "its processes have 30 s to save" in process.stdout.read()


def test_a_task_whose_work_another_try_has_leaves_the_job_to_it(player: Any, objects: client.CustomObjectsApi) -> None:
    job = manifest("handed")
    cluster, process = player(job), started(job)
    cluster.made()
    time.sleep(0.5)
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 129
    assert "deletionTimestamp" not in cluster.job()["metadata"]
    objects.delete_namespaced_custom_object(*TRAINJOBS, cluster.name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (JobSettings(runtime="torch-h100"), "resources.train.job.runtime torch-h100: this cluster has no such ClusterTrainingRuntime"),
        (JobSettings(queue="gone"), "resources.train.job.queue gone: namespace mugv has there; create the LocalQueue"),
    ],
)
def test_a_runtime_or_queue_that_does_not_exist_is_named_before_anything_is_made(
    objects: client.CustomObjectsApi, settings: JobSettings, said: str
) -> None:
    _make_runtime_and_queue(objects)
    with pytest.raises(UserError) as error:
        Api().check(settings, "resources.train.job")
    assert said in str(error.value)
    Api().check(JobSettings(runtime="mugv-torch", queue="there"), "resources.train.job")


def _make_runtime_and_queue(objects: client.CustomObjectsApi) -> None:
    runtime = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime", "metadata": {"name": "mugv-torch"}}
    queue = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue", "metadata": {"name": "there"}, "spec": {}}
    for create in (
        lambda: objects.create_cluster_custom_object("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", runtime),
        lambda: objects.create_namespaced_custom_object("kueue.x-k8s.io", "v1beta2", "mugv", "localqueues", queue),
    ):
        with suppress(client.ApiException):  # it is there
            create()
    with suppress(client.ApiException):  # of the overlay
        objects.delete_namespaced_custom_object("kueue.x-k8s.io", "v1beta2", "mugv", "localqueues", "mugv-train")


def test_a_service_account_without_the_role_is_told_which(as_user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUGV_KUBECONFIG", str(as_user("stranger")))
    error = str(Trying(manifest("stranger")).ended().error)
    assert 'User "system:serviceaccount:mugv:default" cannot get resource "trainjobs"' in error
    assert "role mugv-launcher (manifests/base/rbac.yaml)" in error


def test_a_token_that_is_not_accepted_is_said(as_user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUGV_KUBECONFIG", str(as_user("expired")))
    assert "the token of the service account is not accepted" in str(Trying(manifest("expired")).ended().error)


def test_an_object_that_the_server_refuses_is_the_user_s_error() -> None:
    job = manifest("refused")
    job["spec"]["trainer"]["resourcesPerNode"]["limits"]["memory"] = "8 GB"
    error = Trying(job).ended().error
    assert isinstance(error, UserError)
    assert "the cluster refuses to create it" in str(error)
    assert "memory" in str(error)
