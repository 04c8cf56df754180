"""Turns the graph of a recipe into KFP tasks: one component per stage, wired, placed and keyed. Used by every pipeline here.

mugv.stages.graph  --nodes-->  add_tasks  --tasks-->  kfp.local on a laptop | IR for a cluster
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from kfp import dsl, kubernetes

from mugv.recipe import Recipe
from mugv.recipe.schema import Pool, Toleration
from mugv.stages.graph import Keys, Node
from mugv.stages.placement import layout_of, pool_of, task_pool
from mugv.stages.roots import Roots
from pipelines import shards

COMPONENTS = {
    "sample_footage": ("footage", "footage"),
    "scan": ("scan", "sources"),
    "curate_shard": ("curate_shard", "part"),
    "caption": ("caption", "captions"),
    "curate": ("curate", "clips"),
    "train_vae": ("train_vae", "vae"),
    "encode": ("encode", "latents"),
    "pretrain": ("pretrain", "checkpoint"),
    "sft": ("sft", "checkpoint"),
    "candidates": ("candidates", "candidates"),
    "align": ("align", "checkpoint"),
    "evaluate": ("evaluate", "evaluation"),
    "register": ("register", "registered"),
}
"""Stage -> component folder and name of its output artifact."""
INDEXED = ("pretrain", "align")
SHARDED = ("curate_shard", "caption")
"""Stages of one iteration of the `ParallelFor` over shards, in order."""
STORE, TRACKING, STATE = "mugv-store", "mugv-mlflow", "mugv-state"
STATE_PATH = "/mugv"
STORE_SECRETS = ("MUGV_S3_ACCESS_KEY", "MUGV_S3_SECRET_KEY")
STORE_SETTINGS = ("MUGV_STORE", "MUGV_S3_ENDPOINT", "MUGV_STATE")
STORE_OPTIONS = ("MUGV_S3_CA", "AWS_REGION")
AUTHORITY, AUTHORITY_PATH = "mugv-ca", "/etc/mugv-ca"
"""Config map with the certificate of the store's authority (ca.crt), which MUGV_S3_CA then names."""
GIT = "mugv-git"
GIT_SECRETS = ("MUGV_GIT_USER", "MUGV_GIT_TOKEN")
"""Secret with the user and the token of a DVC project's repository."""
TRACKING_SETTINGS = ("MLFLOW_TRACKING_URI",)
TRACKING_SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Of a server that asks who is there; the secret may be absent."""
WRITABLE = {"tmp": "/tmp", "home": "/home/mugv"}
"""Volumes of each pod's own, by name: with the state volume, all that a task writes to. The images point TMPDIR, HOME and caches there."""
CAPTIONS = "mugv-captions"
"""Secret with the key of a captioning endpoint, under the name of the recipe's curation.caption.key_variable."""
VIDEOS = "mugv-videos"
OWN_POD = {"MUGV_POD_NAME": "metadata.name", "MUGV_POD_UID": "metadata.uid", "MUGV_POD_NAMESPACE": "metadata.namespace"}
"""What a task that starts a TrainJob must know of its own pod, which owns the job."""
RETRY_PAUSE = "15s"
RUN_LABEL = "metadata.labels['pipeline/runid']"
"""Where KFP writes the id of the run on every pod."""


@dataclass(frozen=True)
class Settings:
    """What every task of a pipeline shares."""

    recipe: Recipe
    keys: Mapping[str, str] = field(default_factory=dict)
    """Node name -> cache key for KFP. It caches no other node: only the running task can know its key, and the store has the rest."""
    retry: bool = False
    """Whether a failed task is started again, as its pool says; it resumes from its own last checkpoint."""
    goal: str = ""
    """Node that the run is for; "": the last of the graph."""


def cache_keys(nodes: list[Node], recipe: Recipe, roots: Roots | None, uncached: Collection[str]) -> dict[str, str]:
    """What KFP gets as `Settings.keys`: the key of every node but `uncached`, the shards, which are one task, and the last.

    The last task always looks: what KFP finds in its cache for a recipe that was edited in a form must not pass for the result.
    """
    if roots is None:
        return {}
    keys = Keys(recipe, roots)
    return {node.name: keys[node.name] for node in nodes[:-1] if node.stage not in SHARDED and node.name not in uncached}


def component(stage: str) -> Any:
    """The KFP component of a stage."""
    return load_component(COMPONENTS[stage][0])


def load_component(folder: str) -> Any:
    return getattr(importlib.import_module(f"components.{folder}.component"), folder)


def shard_pipeline(nodes: list[Node], settings: Settings) -> Any:
    """The pipeline of all shards, to be nested in another by `add_tasks`; KFP wants it made before the other is begun."""
    # Those of the first shard stand for those of all.
    first = [node for node in nodes if node.stage in SHARDED and node.index == 0]

    def loop(given: dict[str, Any], indices: Any, made: dict[str, Any]) -> None:
        with dsl.ParallelFor(indices, name="loop", parallelism=settings.recipe.data.parallelism or None) as index:
            for node in first:
                task = component(node.stage)(**given, index=index, **_inputs(node, made)).set_display_name(node.stage)
                _place(task, node, settings)
                # All iterations would share one cache key and so one output; the store finds each shard by its own.
                _cache(task, None)
                made[node.name] = task.outputs[COMPONENTS[node.stage][1]]

    return shards.of_footage(loop) if "footage" in first[0].inputs else shards.of_videos(loop)


def add_tasks(
    nodes: list[Node], given: dict[str, Any], settings: Settings, nested: Any = None, made: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Add a task per node to the pipeline being built; returns node name -> its output artifact.

    `given`: the pipeline parameters that every task gets, `recipe` and `roots` as JSON. `nested`: the `shard_pipeline` of these nodes,
    one task for all shards. `made`: outputs of nodes that are there already.
    """
    outputs = dict(made or {})
    for node in (n for n in nodes if n.stage not in SHARDED):
        # The merge finds the outputs of all shards by their keys: 10,000 artifacts are more than a task's arguments can name.
        arguments = {"scan": outputs["scan"]} if node.stage == "curate" else _inputs(node, outputs)
        if node.stage in INDEXED:
            arguments["index"] = node.index
        task = component(node.stage)(**given, **arguments).set_display_name(node.name)
        if node.stage == "curate":
            task.after(outputs["shards"])
        _place(task, node, settings)
        _cache(task, settings.keys.get(node.name))
        outputs[node.name] = task.outputs[COMPONENTS[node.stage][1]]
        if node.stage == "scan":
            outputs["shards"] = nested(**given, indices=task.outputs["Output"], **outputs).set_display_name("shards")
            _cache(outputs["shards"], None)
    return outputs


def ended(recipe: Any, settings: Settings) -> Any:
    """Context of all tasks of a cluster's pipeline: its exit handler ends the run's record and MLflow's run. `mugv run` does it itself."""
    if not settings.retry:
        return nullcontext()
    task = load_component("finish")(recipe=recipe).set_display_name("finish").set_caching_options(False)
    resources = settings.recipe.resources
    place(task, resources.data.model_copy(update={"gpus": 0}), resources.image_data, retry=True)
    return dsl.ExitHandler(exit_task=task, name="run")


def _inputs(node: Node, outputs: dict[str, Any]) -> dict[str, Any]:
    return {name: outputs[source] for name, source in node.inputs.items()}


def _cache(task: dsl.PipelineTask, key: str | None) -> None:
    if key is None:
        task.set_caching_options(False)
    else:
        task.set_caching_options(True, cache_key=key)


def _place(task: dsl.PipelineTask, node: Node, settings: Settings) -> None:
    resources = settings.recipe.resources
    image = resources.image_data if node.pool == "data" else resources.image_train
    place(task, task_pool(settings.recipe, node), image, settings.retry)
    if layout_of(settings.recipe, node.stage, pool_of(settings.recipe, node)).nodes > 1:
        for name, field in OWN_POD.items():
            kubernetes.use_field_path_as_env(task, name, field)
    if settings.goal:
        task.set_env_variable("MUGV_GOAL", settings.goal)
    if node.stage == "caption":
        key = settings.recipe.curation.caption.key_variable
        kubernetes.use_secret_as_env(task, CAPTIONS, {key: key}, optional=True)
    videos = settings.recipe.data.videos or ""
    if (node.pool == "data" or node.stage in SHARDED) and videos.startswith("/"):
        # A list lies in the volume that its paths start from.
        kubernetes.mount_pvc(task, pvc_name=VIDEOS, mount_path=videos.rpartition("/")[0] if videos.endswith(".parquet") else videos)


def place(task: dsl.PipelineTask, pool: Pool, image: str, retry: bool = False) -> None:
    """Image, processor, memory, GPUs, nodes and the platform's environment of one task. A local run ignores all but the image."""
    task.set_container_image(image)
    task.set_cpu_request(pool.cpu).set_cpu_limit(pool.cpu).set_memory_request(pool.memory).set_memory_limit(pool.memory)
    if pool.gpus:
        task.set_accelerator_type(pool.gpu_type).set_accelerator_limit(pool.gpus)
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=pool.shared_memory)
    for name, value in pool.environment.items():
        task.set_env_variable(name, value)
    for label, value in pool.node_selector.items():
        kubernetes.add_node_selector(task, label_key=label, label_value=value)
    for toleration in pool.tolerations:
        _tolerate(task, toleration)
    if retry:
        # Argo's longest backoff is no longest pause: it is the time since the first try after which none begins. So the pauses do not grow.
        task.set_retry(pool.retries, backoff_duration=RETRY_PAUSE, backoff_factor=1.0, backoff_max_duration=f"{pool.deadline:.0f}s")
    _environment(task)
    _confine(task)


def _tolerate(task: dsl.PipelineTask, toleration: Toleration) -> None:
    kubernetes.add_toleration(task, key=toleration.key, operator=toleration.operator, value=toleration.value, effect=toleration.effect)


def _environment(task: dsl.PipelineTask) -> None:
    # Optional: a pod's service account may have a role instead of keys.
    kubernetes.use_secret_as_env(task, STORE, {name: name for name in STORE_SECRETS}, optional=True)
    kubernetes.use_config_map_as_env(task, STORE, {name: name for name in STORE_SETTINGS})
    kubernetes.use_config_map_as_env(task, STORE, {name: name for name in STORE_OPTIONS}, optional=True)
    kubernetes.use_config_map_as_volume(task, AUTHORITY, mount_path=AUTHORITY_PATH, optional=True)
    kubernetes.use_config_map_as_env(task, TRACKING, {name: name for name in TRACKING_SETTINGS})
    kubernetes.use_secret_as_env(task, TRACKING, {name: name for name in TRACKING_SECRETS}, optional=True)
    # A task that is started again goes on from its own checkpoints, which lie on this volume.
    kubernetes.mount_pvc(task, pvc_name=STATE, mount_path=STATE_PATH)
    kubernetes.use_field_path_as_env(task, "MUGV_RUN", RUN_LABEL)


def _confine(task: dsl.PipelineTask) -> None:
    """No root, and places to write to where the root file system is read-only; the user is the image's."""
    kubernetes.set_security_context(task, run_as_non_root=True)
    for name, path in WRITABLE.items():
        kubernetes.empty_dir_mount(task, volume_name=name, mount_path=path)


def cluster_name(prefix: str, recipe: Recipe) -> str:
    """A pipeline name that Kubernetes accepts: lower case letters, digits and dashes."""
    return "-".join([prefix, *"".join(c if c.isalnum() else " " for c in recipe.name.lower()).split()])
