"""Starts a training module on many processes: `torchrun` here, a Kubeflow Trainer `TrainJob` (API of Trainer 2.3) on a cluster.
One dataclass renders both.

    LaunchSpec --local_command--> python -m module | torchrun --standalone ...   (run_local)
               --train_job------> TrainJob dict (trainer.kubeflow.org/v1alpha1)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from mugv.errors import UserError
from mugv.platform.processes import RUNNER
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

    def __post_init__(self) -> None:
        for name in ("nodes", "processes_per_node"):
            if getattr(self, name) < 1:
                raise UserError(f"launch: {name} must be at least 1, got {getattr(self, name)}")
        if self.pool.gpus and self.processes_per_node > self.pool.gpus:
            raise UserError(f"launch: {self.processes_per_node} processes a node do not fit on its {self.pool.gpus} GPUs")

    @property
    def world(self) -> int:
        return self.nodes * self.processes_per_node


def local_command(spec: LaunchSpec) -> list[str]:
    """The command that starts `spec` on this machine. Raises UserError when it asks for more than one node."""
    if spec.nodes > 1:
        raise UserError(f"launch: this machine is one node, the recipe's layout needs {spec.nodes}; submit the pipeline to a cluster")
    target = ["-m", spec.module, *spec.arguments]
    if spec.world == 1:
        return [sys.executable, *target]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.processes_per_node}", *target]


def run_local(spec: LaunchSpec, inherit: Mapping[str, str] | None = None) -> int:
    """Run `spec` here and wait; returns its exit code, negative when a signal ended it, as in subprocess.

    `inherit` is the environment to start from; None: this process's. SIGINT and SIGTERM go on to the processes, which save and stop.
    """
    environment = {**(os.environ if inherit is None else inherit), **spec.environment}
    environment[RUNNER] = str(os.getpid())
    if spec.world > 1:
        environment.setdefault("OMP_NUM_THREADS", "1")
    # A session of its own: a Ctrl-C reaches the processes once, through us, and not a second time from the terminal.
    process = subprocess.Popen(local_command(spec), env=environment, start_new_session=True)
    with _forwarded(process):
        return process.wait()


@contextmanager
def _forwarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on while the block runs."""

    def forward(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    """The trainer section; the runtime's torch plugin sets the PET_* variables that torchrun reads for nodes and rendezvous."""
    amounts = {"cpu": spec.pool.cpu, "memory": spec.pool.memory}
    if spec.pool.gpus:
        amounts[spec.pool.gpu_type] = str(spec.pool.gpus)
    return {
        "image": spec.image,
        "command": ["torchrun", "-m", spec.module],
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
