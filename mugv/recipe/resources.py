"""The recipe's part on a cluster: images, what each pool's tasks ask for, and how stages of many nodes start. Same rules as
mugv.recipe.schema."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mugv.recipe.models import ModelPart as Part
from mugv.recipe.models import NonNegative, Positive
from mugv.recipe.slurm import Slurm


def _processors(text: str) -> str:
    if not re.fullmatch(r"[0-9]+(\.[0-9]{1,3})?|[0-9]+m", text) or not float(text.rstrip("m")):
        raise ValueError("must be processors as Kubernetes writes them, such as 2, 0.5 or 500m")
    return text


def _bytes(text: str) -> str:
    # Whole numbers and these units alone are read alike by Kubeflow Pipelines and by Kubernetes.
    if not re.fullmatch(r"[0-9]+([EPTGM]i?|Ki)?", text) or not int(re.sub(r"[A-Zi]", "", text)):
        raise ValueError("must be memory as Kubernetes writes it, a whole number such as 8G or 512Mi")
    if text.isdigit() and int(text) < LEAST_BYTES:
        raise ValueError(f"means {text} bytes; write its unit, such as 8G or 512Mi")
    return text


def _written(value: Any) -> Any:
    """YAML reads 4 and 0.5 as numbers; Kubernetes takes both."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {what}")
        return text

    return check


_WORD = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN = "[a-z0-9]([-a-z0-9.]*[a-z0-9])?/"
_object_name = _matching(
    "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", "the name of a Kubernetes object: lower case letters, digits, dashes and dots"
)
_resource = _matching(_DOMAIN + _WORD, "the name of a node's resource, such as nvidia.com/gpu or rdma/ib")
_label = _matching(f"({_DOMAIN})?{_WORD}", "the key of a label, such as topology.kubernetes.io/zone")
_label_value = _matching(f"({_WORD})?", "the value of a label: at most 63 letters, digits, dashes, dots and underscores")


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("must be the name of an environment variable, such as NCCL_SOCKET_IFNAME")
    if text.startswith("PET_") or text in LAUNCHER_VARIABLES:
        raise ValueError("is set by the launcher")
    return text


def _image(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][-a-z0-9._/:]*(:[A-Za-z0-9_][-A-Za-z0-9._]{0,127})?(@[a-z0-9]+:[0-9a-f]{32,})?", text):
        raise ValueError("must be the name of an image, such as registry/mugv/train-python:0.1")
    return text


LAUNCHER_VARIABLES = frozenset({"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"})
Image = Annotated[str, AfterValidator(_image)]
ObjectName = Annotated[str, AfterValidator(_object_name)]


Processors = Annotated[str, BeforeValidator(_written), AfterValidator(_processors)]
Bytes = Annotated[str, BeforeValidator(_written), AfterValidator(_bytes)]
Label = Annotated[str, AfterValidator(_label)]
LEAST_BYTES = 1 << 20


class Toleration(Part):
    """A taint of nodes that a task accepts."""

    key: Label
    """Key of the taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Exists: any value; Equal: the value below."""
    value: str | None = None
    """Value of the taint, with Equal."""
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] = "NoSchedule"
    """Effect of the taint."""

    @model_validator(mode="after")
    def _value_with_equal(self) -> Toleration:
        if (self.operator == "Exists") != (self.value is None):
            raise ValueError("value belongs to operator: Equal, and Exists has none")
        return self


class JobSettings(Part):
    """How a stage whose layout needs more than one node runs: as a TrainJob of Kubeflow Trainer."""

    runtime: ObjectName = "mugv-torch"
    """ClusterTrainingRuntime that the job runs in."""
    queue: ObjectName | None = None
    """Kueue's LocalQueue, in the namespace of the run, that admits the job; unset: no queue."""
    priority: ObjectName | None = None
    """Kueue's WorkloadPriorityClass of the job; needs `queue`."""
    topology: Annotated[str, AfterValidator(_label)] | None = None
    """Level of Kueue's topology, a key of node labels, inside which all nodes of the job must lie (a rack, a block); needs `queue`."""

    @model_validator(mode="after")
    def _queued(self) -> JobSettings:
        for name in ("priority", "topology"):
            if getattr(self, name) and not self.queue:
                raise ValueError(f"{name} needs queue: Kueue reads it of jobs in a queue alone")
        return self


class Pool(Part):
    """A node pool of the cluster: what a task asks for and where it may run."""

    cpu: Processors = "2"
    """Processors a task, requested and limit, as Kubernetes writes them."""
    memory: Bytes = "8G"
    """Memory a task, requested and limit, as Kubernetes writes it."""
    gpus: NonNegative = 0
    """GPUs of a node. A task asks for as many of them as it uses: one for a stage of one process, none where it starts a TrainJob."""
    gpu_type: Annotated[str, AfterValidator(_resource)] = "nvidia.com/gpu"
    """Name of the GPU resource."""
    devices: dict[Annotated[str, AfterValidator(_resource)], Positive] = Field(default_factory=dict)
    """Other resources of each node of a TrainJob, such as {rdma/ib: 8}."""
    shared_memory: Bytes | None = None
    """Size of /dev/shm, in which the processes of a node meet; it counts as memory. Unset: as much as the memory."""
    environment: dict[Annotated[str, AfterValidator(_variable)], str] = Field(default_factory=dict)
    """Variables of the training processes, such as {NCCL_SOCKET_IFNAME: eth0, NCCL_IB_HCA: mlx5}. No place for secrets."""
    retries: NonNegative = 20
    """How often a task that failed or was preempted is started again, each time 15 s later; it goes on from its checkpoint."""
    deadline: Annotated[float, Field(gt=0, le=31_536_000)] = 2_592_000.0
    """Seconds since a task first began in which it may be started again; by default 30 days."""
    node_selector: dict[Label, Annotated[str, AfterValidator(_label_value)]] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()
    job: JobSettings = JobSettings()


class Resources(Part):
    """Images and node pools of a cluster's tasks."""

    data: Pool = Pool()
    vae: Pool = Pool()
    train: Pool = Pool()
    image_data: Image = "mugv/data-python:dev"
    """Image of tasks of the pool `data`."""
    image_train: Image = "mugv/train-python:dev"
    """Image of tasks of the pools `vae` and `train`."""
    gpus_per_node: NonNegative = 0
    """Training processes on one node; 0: as many as the pool's `gpus`, and without GPUs all on one node."""
    start_deadline: Annotated[float, Field(gt=0, le=2_592_000)] = 21600.0
    """Seconds that a TrainJob may wait, in its queue or for nodes and images, before the stage ends with the reason."""
    job_retries: NonNegative = 3
    """How often a TrainJob that failed or lost a node is made again without having got further in between."""
    grace_seconds: Annotated[float, Field(gt=0, le=86_400)] = 25.0
    """Seconds that training has after SIGTERM to end its step and write a checkpoint before it is killed; on a cluster some less than
    the pod's own grace period (Kubernetes: 30)."""
    slurm: Slurm = Slurm()
