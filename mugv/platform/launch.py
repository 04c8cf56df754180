"""Starts a training module on many processes: here, or on a cluster as a Kubeflow Trainer `TrainJob` (API of Trainer 2.3). One
dataclass renders both, and mugv.ranks starts the processes of a node in both.

    LaunchSpec --run_local--> exit code
               --train_job--> TrainJob dict (trainer.kubeflow.org/v1alpha1)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from mugv import ranks
from mugv.errors import UserError
from mugv.recipe.schema import Pool


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
