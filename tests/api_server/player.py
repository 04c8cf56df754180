"""Plays what is not here: the Trainer's controller writes `status`, the kubelet's pods appear and end, the garbage collector collects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kubernetes import client
from server import Front

TRAINJOBS = ("trainer.kubeflow.org", "v1alpha1", "mugv", "trainjobs")
NOW = "2026-01-01T00:00:00Z"


def wait_for(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)
    return found


def counts(**more: int) -> dict[str, Any]:
    return {"name": "node", "ready": 0, "succeeded": 0, "failed": 0, "active": 0, "suspended": 0, **more}


def condition(kind: str, status: str = "True", reason: str = "Set", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


class Player:
    """Of one job."""

    def __init__(self, objects: client.CustomObjectsApi, name: str) -> None:
        self.objects, self.name = objects, name

    def job(self) -> dict[str, Any] | None:
        try:
            return dict(self.objects.get_namespaced_custom_object(*TRAINJOBS, self.name))
        except client.ApiException as error:
            if error.status != 404:
                raise
            return None

    def made(self, other_than: str = "") -> dict[str, Any]:
        """The job, once it is there, with another uid than the one before."""

        def look() -> dict[str, Any] | None:
            found = self.job()
            return found if found and found["metadata"]["uid"] != other_than else None

        return dict(wait_for(look))

    def status(self, *conditions: dict[str, Any], jobs: dict[str, Any] | None = None) -> None:
        body = {"conditions": list(conditions), "jobsStatus": [jobs or counts()]}
        self.objects.patch_namespaced_custom_object_status(*TRAINJOBS, self.name, {"status": body})

    def runs(self, log: str = "") -> None:
        self.pod(0, phase="Running")
        self.pod(1, phase="Running")
        Front.logs[f"{self.name}-node-0-0-x"] = log
        self.status(jobs=counts(ready=1, active=1))

    def completes(self) -> None:
        self.status(condition("Complete", reason="JobsCompleted", message="jobset completed"), jobs=counts(succeeded=1))

    def fails(self, code: int, reason: str = "Error", **status: Any) -> None:
        state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": NOW}}
        self.pod(1, phase="Failed", containerStatuses=[{"name": "node", "state": state}], **status)
        self.status(condition("Failed", reason="JobsFailed", message="jobset failed"), jobs=counts(failed=1))

    def pod(self, index: int, **status: Any) -> None:
        name = f"{self.name}-node-0-{index}-x"
        labels = {"jobset.sigs.k8s.io/jobset-name": self.name, "batch.kubernetes.io/job-completion-index": str(index)}
        Front.pods[name] = {"metadata": {"name": name, "labels": labels}, "status": status}

    def collected(self, seconds: float = 20.0) -> None:
        """Returns when the job was deleted, and its pods with it."""

        def look() -> bool:
            found = self.job()
            if found and "deletionTimestamp" in found["metadata"]:
                self.objects.patch_namespaced_custom_object(*TRAINJOBS, self.name, {"metadata": {"finalizers": []}})
            return found is None

        wait_for(look, seconds)
        Front.pods = {n: p for n, p in Front.pods.items() if p["metadata"]["labels"]["jobset.sigs.k8s.io/jobset-name"] != self.name}
