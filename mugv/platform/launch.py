"""Starts a training module on many processes: here, or on a cluster as a Kubeflow Trainer `TrainJob` (API of Trainer 2.3). One
dataclass renders both, and mugv.ranks starts the processes of a node in both.

    LaunchSpec --run_local--> exit code
               --train_job--> TrainJob dict (trainer.kubeflow.org/v1alpha1)
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mugv import ranks
from mugv.errors import UserError
from mugv.recipe.schema import Pool, Toleration

RUNTIME = "mugv-torch"
MANAGER = "mugv.platform/launcher"
_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class LaunchSpec:
    """What to run and on what. Raises UserError when no launcher could start it."""

    module: str
    """Python module with a `__main__` entry."""
    arguments: tuple[str, ...] = ()
    nodes: int = 1
    processes_per_node: int = 1
    image: str = ""
    """Container image of a TrainJob; a local start ignores it."""
    pool: Pool = field(default_factory=Pool)
    """Processor, memory and GPUs of one node, and which nodes may be used."""
    environment: dict[str, str] = field(default_factory=dict)
    grace_seconds: float = ranks.GRACE
    """From SIGTERM to SIGKILL of a process that writes its checkpoint."""

    def __post_init__(self) -> None:
        for name in ("nodes", "processes_per_node"):
            if getattr(self, name) < 1:
                raise UserError(f"launch: {name} must be at least 1, got {getattr(self, name)}")
        if self.pool.gpus and self.processes_per_node > self.pool.gpus:
            raise UserError(f"launch: {self.processes_per_node} processes a node do not fit on its {self.pool.gpus} GPUs")

    @property
    def world(self) -> int:
        return self.nodes * self.processes_per_node


def run_local(spec: LaunchSpec, inherit: Mapping[str, str] | None = None) -> int:
    """Run `spec` here and wait; its exit code as mugv.ranks gives it. Raises UserError when it asks for more than one node.

    `inherit` is the environment to start from; None: this process's. SIGINT and SIGTERM go on to the processes, which save and stop.
    """
    if spec.nodes > 1:
        raise UserError(f"launch: this machine is one node, the recipe's layout needs {spec.nodes}; submit the pipeline to a cluster")
    environment = {**(os.environ if inherit is None else inherit), **spec.environment}
    command = [sys.executable, "-m", spec.module, *spec.arguments]
    return ranks.run(command, spec.processes_per_node, grace=spec.grace_seconds, environment=environment)


def train_job(spec: LaunchSpec, name: str, namespace: str = "mugv", queue: str | None = None) -> dict[str, Any]:
    """The TrainJob that runs `spec` on the cluster's runtime `mugv-torch` (manifests/base/runtime.yaml).

    `queue`: Kueue LocalQueue that admits it. Raises UserError for a name that Kubernetes refuses.
    """
    if not _DNS_LABEL.fullmatch(name):
        raise UserError(f"launch: job name {name!r} must be lower case letters, digits and dashes, at most 63, starting with a letter")
    if not spec.image:
        raise UserError("launch: a TrainJob needs an image (recipe: resources.image_train)")
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    job: dict[str, Any] = {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": RUNTIME},
        "trainer": _trainer(spec),
    }
    placement = _placement(spec.pool)
    if placement:
        job["runtimePatches"] = [{"manager": MANAGER, "trainingRuntimeSpec": _patch(placement)}]
    return {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata, "spec": job}


def _trainer(spec: LaunchSpec) -> dict[str, Any]:
    """The trainer section; the runtime's torch plugin sets the PET_* variables that mugv.ranks reads for nodes and rendezvous."""
    amounts = {"cpu": spec.pool.cpu, "memory": spec.pool.memory}
    if spec.pool.gpus:
        amounts[spec.pool.gpu_type] = str(spec.pool.gpus)
    return {
        "image": spec.image,
        "command": ["python", "-m", "mugv.ranks", f"--grace={spec.grace_seconds:g}", "-m", spec.module],
        "args": list(spec.arguments),
        "env": [{"name": key, "value": value} for key, value in sorted(spec.environment.items())],
        "numNodes": spec.nodes,
        "numProcPerNode": spec.processes_per_node,
        "resourcesPerNode": {"requests": amounts, "limits": dict(amounts)},
    }


def _placement(pool: Pool) -> dict[str, Any]:
    placement: dict[str, Any] = {}
    if pool.node_selector:
        placement["nodeSelector"] = dict(pool.node_selector)
    if pool.tolerations:
        placement["tolerations"] = [_toleration(t) for t in pool.tolerations]
    return placement


def _patch(pod: dict[str, Any]) -> dict[str, Any]:
    """The runtime's replicated job `node` with `pod` merged into its pod template."""
    return {"template": {"spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": {"spec": pod}}}}]}}}


def _toleration(toleration: Toleration) -> dict[str, str]:
    return {key: value for key, value in toleration.model_dump().items() if value is not None}
