"""The TrainJob (trainer.kubeflow.org/v1alpha1, Kubeflow Trainer 2.3) of a training stage: what is sent, and what its status means.

Pure: mugv.platform.trainjob_api talks to the cluster, mugv.platform.trainjob_run lives with the job.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mugv.errors import EXIT_USER, UserError
from mugv.platform.launch import LaunchSpec
from mugv.recipe.resources import JobSettings, Pool, Toleration

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MANAGER = "mugv.platform/launcher"
NODE = "node"
"""Name of the runtime's replicated job and of its container, which the Trainer fills with the TrainJob's `trainer` section."""
KEY_LABEL, RUN_LABEL = "mugv.io/key", "mugv.io/run"
QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
TOPOLOGY = "kueue.x-k8s.io/podset-required-topology"
PODS = "jobset.sigs.k8s.io/jobset-name"
"""Label of a job's pods; its value is the job's name."""
HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Why a container waits that no waiting mends."""


@dataclass(frozen=True)
class JobId:
    """What a job is for. Its name is a function of these alone, so that a second try of the task finds the job of the first."""

    run: str
    node: str
    key: str

    @property
    def name(self) -> str:
        """At most 41 characters: with the Trainer's endings a pod's host name still has room."""
        digest = hashlib.sha256("\n".join((self.run, self.node, self.key)).encode()).hexdigest()[:10]
        node = re.sub(r"[^a-z0-9]+", "-", self.node.lower()).strip("-")[:24].strip("-")
        return f"mugv-{node}-{digest}"

    @property
    def labels(self) -> dict[str, str]:
        return {KEY_LABEL: self.key[:63], RUN_LABEL: re.sub(r"[^A-Za-z0-9_.-]", "-", self.run)[:63].strip("-_.")}


def owner_of(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The task's own pod as owner of what it makes, from the downward API; None where that is not told."""
    name, uid = environment.get("MUGV_POD_NAME"), environment.get("MUGV_POD_UID")
    if not (name and uid):
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": False, "blockOwnerDeletion": False}


def train_job(spec: LaunchSpec, job: JobId, settings: JobSettings, namespace: str, owner: dict[str, Any] | None = None) -> dict[str, Any]:
    """The TrainJob that runs `spec`. Raises UserError without an image."""
    if not spec.image:
        raise UserError("launch: a TrainJob needs an image (recipe: resources.image_train)")
    queued = {QUEUE_LABEL: settings.queue, PRIORITY_LABEL: settings.priority}
    metadata: dict[str, Any] = {
        "name": job.name,
        "namespace": namespace,
        "labels": {**job.labels, **{label: value for label, value in queued.items() if value}},
    }
    if owner:
        metadata["ownerReferences"] = [owner]
    body = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": settings.runtime},
        "trainer": _trainer(spec),
        "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": _patch(_pod(spec.pool, job, settings))}],
    }
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": body}


def _trainer(spec: LaunchSpec) -> dict[str, Any]:
    """The trainer section; the runtime's torch plugin sets the PET_* variables that mugv.ranks reads for nodes and rendezvous."""
    amounts = {"cpu": spec.pool.cpu, "memory": spec.pool.memory, **{name: str(count) for name, count in spec.pool.devices.items()}}
    if spec.pool.gpus:
        amounts[spec.pool.gpu_type] = str(spec.pool.gpus)
    environment = {**spec.pool.environment, **spec.environment}
    return {
        "image": spec.image,
        "command": ["python", "-m", "mugv.ranks", f"--grace={spec.grace_seconds:g}", "-m", spec.module],
        "args": list(spec.arguments),
        "env": [{"name": key, "value": value} for key, value in sorted(environment.items())],
        "numNodes": spec.nodes,
        "numProcPerNode": spec.processes_per_node,
        "resourcesPerNode": {"requests": amounts, "limits": dict(amounts)},
    }


def _pod(pool: Pool, job: JobId, settings: JobSettings) -> dict[str, Any]:
    """What the runtime's pods get besides: marks, nodes, tolerations, the size of /dev/shm."""
    metadata: dict[str, Any] = {"labels": job.labels}
    if settings.topology:
        metadata["annotations"] = {TOPOLOGY: settings.topology}
    body: dict[str, Any] = {}
    if pool.node_selector:
        body["nodeSelector"] = dict(pool.node_selector)
    if pool.tolerations:
        body["tolerations"] = [_toleration(t) for t in pool.tolerations]
    if pool.shared_memory:
        body["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": pool.shared_memory}}]
    return {"metadata": metadata, **({"spec": body} if body else {})}


def _patch(pod: dict[str, Any]) -> dict[str, Any]:
    """The runtime's replicated job with `pod` merged into its pod template."""
    return {"template": {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": pod}}}]}}}


def _toleration(toleration: Toleration) -> dict[str, str]:
    return {key: value for key, value in toleration.model_dump().items() if value is not None}


class Phase(Enum):
    """What a job is doing."""

    QUEUED = "waits in its queue"
    STARTING = "waits for its nodes"
    RUNNING = "runs"
    COMPLETE = "is complete"
    FAILED = "failed"


def phase_of(job: Mapping[str, Any]) -> Phase:
    """From the conditions, and from the counts of child jobs whose pods are all there."""
    status = job.get("status", {})
    true = {c["type"] for c in status.get("conditions", ()) if c.get("status") == "True"}
    if "Complete" in true:
        return Phase.COMPLETE
    if "Failed" in true:
        return Phase.FAILED
    if "Suspended" in true or job.get("spec", {}).get("suspend"):
        return Phase.QUEUED
    there = any(j.get("ready", 0) + j.get("succeeded", 0) > 0 for j in status.get("jobsStatus", ()) if j.get("name") == NODE)
    return Phase.RUNNING if there else Phase.STARTING


@dataclass(frozen=True)
class Wait:
    """Why a job does not start."""

    reason: str
    image: bool = False
    """An image cannot be had; registries are away at times, so it may mend itself."""
    hopeless: bool = False
    """It never will."""


def why_it_waits(
    job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], workload: Mapping[str, Any] | None, events: Sequence[Mapping[str, Any]]
) -> Wait:
    """The nearest cause that the cluster tells: a container that cannot start, a pod without a node, the queue, the last warning."""
    waits = [found for pod in pods if (found := _pod_waits(pod))]
    if waits:
        worst = max(waits, key=lambda w: (w.hopeless, w.image))
        same = sum(w.reason == worst.reason for w in waits)
        return Wait(worst.reason + (f" ({same} of {len(pods)} pods)" if len(pods) > 1 else ""), worst.image, worst.hopeless)
    warnings = [e for e in events if e.get("type") == "Warning" and e.get("message")]
    if phase_of(job) is Phase.QUEUED:
        return Wait(_queue_waits(job, workload))
    if warnings:
        return Wait(f"{warnings[-1].get('reason', 'Warning')}: {warnings[-1]['message']}")
    if not job.get("status"):
        return Wait("the Trainer's controller has not answered; does it run, and does it watch this namespace?")
    return Wait(f"{len(pods)} pods, none of which says why" if pods else "no pod was made yet")


def _queue_waits(job: Mapping[str, Any], workload: Mapping[str, Any] | None) -> str:
    queue = job.get("metadata", {}).get("labels", {}).get(QUEUE_LABEL)
    if not queue:
        return "it is suspended and in no queue; somebody must resume it, or name resources.*.job.queue"
    if workload is None:
        return f"queue {queue}: Kueue has made no Workload of it; is its integration trainer.kubeflow.org/trainjob switched on?"
    refused = [c for c in workload.get("status", {}).get("conditions", ()) if c.get("status") == "False" and c.get("message")]
    return f"queue {queue}: {refused[-1]['message']}" if refused else f"queue {queue}: Kueue has not decided"


def _pod_waits(pod: Mapping[str, Any]) -> Wait | None:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason in ("", "ContainerCreating", "PodInitializing"):
            continue
        image = container.get("image", "") if "Image" in reason else ""
        text = ": ".join(part for part in (f"{reason} {image}".strip(), waiting.get("message", "")) if part)
        return Wait(text, image=bool(image) or "Image" in reason, hopeless=reason in HOPELESS)
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return Wait(f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', f'no node takes pod {name}')}")
    return None


@dataclass(frozen=True)
class Ending:
    """How a job failed. `code`: of the process that ended first, None where no pod tells."""

    code: int | None
    reason: str

    @property
    def by_user(self) -> bool:
        return self.code == EXIT_USER


def ending_of(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> Ending:
    """Of a failed job: a user's error before all, then what ended first, for the others end since one of their group is gone."""
    ended = [found for pod in pods if (found := _pod_ended(pod))]
    if ended:
        first = min(ended, key=lambda e: (e[0] != EXIT_USER, e[1]))
        return Ending(first[0], first[2])
    conditions = job.get("status", {}).get("conditions", ())
    failed: Mapping[str, Any] = next((c for c in conditions if c.get("type") == "Failed"), {})
    told = ": ".join(str(failed[name]) for name in ("reason", "message") if failed.get(name))
    unknown = failed.get("reason") == "TrainingRuntimeNotSupported"
    return Ending(EXIT_USER if unknown else None, told or "failed and does not say why")


def _pod_ended(pod: Mapping[str, Any]) -> tuple[int, str, str] | None:
    """(exit code, when, in words) of a pod that failed."""
    name, status = pod["metadata"]["name"], pod.get("status", {})
    lost = next((c for c in status.get("conditions", ()) if c.get("type") == "DisruptionTarget" and c.get("status") == "True"), None)
    for container in status.get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if ended and ended.get("exitCode"):
            code, why = int(ended["exitCode"]), ended.get("reason", "Error")
            where = f"pod {name} was displaced ({lost.get('reason')})" if lost else f"pod {name} ended"
            return code, ended.get("finishedAt") or "", f"{where} with exit code {code}{'' if why == 'Error' else f' ({why})'}"
    if status.get("phase") == "Failed":
        return (
            1,
            "",
            f"pod {name} failed: {': '.join(str(status[k]) for k in ('reason', 'message') if status.get(k)) or 'without a reason'}",
        )
    return None
