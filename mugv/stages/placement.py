"""Where a node of the graph runs on a cluster: on how many machines, in how many processes, and what its own task asks for.

No work: pipelines, the launcher and the check before a run read the same answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mugv.errors import UserError
from mugv.precision import here
from mugv.recipe import Recipe
from mugv.recipe.schema import Pool
from mugv.stages.graph import Node

TRAINING = frozenset({"train_vae", "pretrain", "sft", "align"})
"""Stages whose processes are `parallel.world`; every other stage is one process and uses one GPU."""
LAUNCHER = Pool(cpu="2", memory="8G")
"""What a task asks for that starts a TrainJob, follows it and publishes its output."""


@dataclass(frozen=True)
class Layout:
    """Processes of a stage: nodes x processes_per_node."""

    nodes: int
    processes_per_node: int


def world_of(recipe: Recipe, stage: str) -> int:
    """Processes of a stage. A VAE that is given is measured only."""
    given = stage == "train_vae" and bool(recipe.weights.vae)
    return recipe.parallel.world if stage in TRAINING and not given else 1


def layout_of(recipe: Recipe, stage: str, pool: Pool) -> Layout:
    """The processes of a stage on nodes of `pool`. The recipe's checks see to it that they fill their nodes."""
    world = world_of(recipe, stage)
    per_node = min(world, recipe.resources.gpus_per_node or pool.gpus or world)
    return Layout(world // per_node, per_node)


def pool_of(recipe: Recipe, node: Node) -> Pool:
    """The recipe's pool that a node of the graph belongs to."""
    pool: Pool = getattr(recipe.resources, node.pool)
    return pool


def training_pool(stage: str) -> str:
    """Name of the pool of a training stage."""
    return "vae" if stage == "train_vae" else "train"


def task_pool(recipe: Recipe, node: Node) -> Pool:
    """What the node's own task asks for: as many GPUs as it uses; with a layout of many nodes little and no GPU, on nodes for data."""
    pool = pool_of(recipe, node)
    if node.pool == "data":
        used = node.stage == "curate_shard" and (recipe.curation.motion.method == "raft" or bool(recipe.curation.aesthetic.clip))
        return pool.model_copy(update={"gpus": min(pool.gpus, 1 if used else 0)})
    layout = layout_of(recipe, node.stage, pool)
    if layout.nodes > 1:
        data = recipe.resources.data
        tried = {"retries": pool.retries, "deadline": pool.deadline}
        return LAUNCHER.model_copy(update={"node_selector": data.node_selector, "tolerations": data.tolerations, **tried})
    return pool.model_copy(update={"gpus": min(pool.gpus, layout.processes_per_node)})


def check_gpus(gpus: int, environment: Mapping[str, str] = os.environ) -> None:
    """UserError in a pod that asked for GPUs and whose torch sees none: it would hold them and compute on the CPU, for weeks."""
    if gpus and environment.get("KUBERNETES_SERVICE_HOST") and here() == "cpu":
        raise UserError(
            f"this pod asked for {gpus} GPUs and torch sees none: give resources.image_train a CUDA build of torch, and look at the "
            "node's driver and device plugin"
        )


def nodes(recipe: Recipe) -> int:
    """Machines of the widest training stage."""
    return max(layout_of(recipe, "pretrain", pool).nodes for pool in (recipe.resources.vae, recipe.resources.train))


def many_nodes(recipe: Recipe, count: int) -> str:
    """Why one machine cannot run the recipe's layout, and what can."""
    return (
        f"parallel.world {recipe.parallel.world} needs {count} nodes (resources.gpus_per_node, resources.train.gpus): "
        "`mugv submit` starts it on a Kubeflow cluster, `mugv slurm` writes a Slurm job"
    )
