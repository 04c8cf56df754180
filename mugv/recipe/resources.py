"""The recipe's part on a cluster: images, and what each pool's tasks ask for. Same rules as mugv.recipe.schema."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mugv.recipe.models import ModelPart as Part
from mugv.recipe.models import NonNegative


def _processors(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?|\d+m", text) or not float(text.rstrip("m")):
        raise ValueError("must be processors as Kubernetes writes them, such as 2, 0.5 or 500m")
    return text


def _bytes(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?([EPTGMK]i?)?", text) or not float(re.sub(r"[A-Zi]", "", text)):
        raise ValueError("must be memory as Kubernetes writes it, such as 8G or 512Mi")
    return text


class Toleration(Part):
    """A taint of nodes that a task accepts."""

    key: str
    """Key of the taint."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Exists: any value; Equal: the value below."""
    value: str | None = None
    """Value of the taint, with Equal."""
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] = "NoSchedule"
    """Effect of the taint."""


class Pool(Part):
    """A node pool of the cluster: what a task asks for and where it may run."""

    cpu: Annotated[str, AfterValidator(_processors)] = "2"
    """Processors a task, requested and limit, as Kubernetes writes them."""
    memory: Annotated[str, AfterValidator(_bytes)] = "8G"
    """Memory a task, requested and limit, as Kubernetes writes it."""
    gpus: NonNegative = 0
    """GPUs a task."""
    gpu_type: str = "nvidia.com/gpu"
    """Name of the GPU resource."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = ()


class Resources(Part):
    """Images and node pools of a cluster's tasks."""

    data: Pool = Pool()
    vae: Pool = Pool()
    train: Pool = Pool()
    image_data: str = "mugv/data-python:dev"
    """Image of tasks of the pool `data`."""
    image_train: str = "mugv/train-python:dev"
    """Image of tasks of the pools `vae` and `train`."""
    gpus_per_node: NonNegative = 0
    """Processes of torchrun on one node; 0: all on one node."""
