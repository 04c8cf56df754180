"""Start torch.distributed and megatron's process groups for a recipe's layout; one process needs no launcher."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from mugv.dit.megatron_cpu import install
from mugv.precision import here
from mugv.recipe.schema import Parallel

BACKENDS = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}
"""By device type: NCCL moves CUDA tensors alone, so what lies on the CPU beside them (counts, names, states) goes by gloo."""


def initialise(layout: Parallel) -> None:
    """Initialise once; later calls with the same layout do nothing. Rank and world come from the environment that mugv.ranks sets."""
    install()
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    if parallel_state.model_parallel_is_initialized():
        return
    if not dist.is_initialized():
        start(layout.world)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
    )
    install()
    model_parallel_cuda_manual_seed(0)


def start(world: int) -> None:
    """torch.distributed alone, which is all that plain data parallelism needs; each process takes its own GPU."""
    backend = BACKENDS[here()]
    if here() == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" in os.environ:
        dist.init_process_group(backend)
        if dist.get_world_size() != world:
            raise ValueError(f"parallel.world is {world}, but the launcher started {dist.get_world_size()} processes")
        return
    if world != 1:
        raise ValueError(f"parallel.world is {world}: start this stage with python -m mugv.ranks --nproc {world}")
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def data_rank() -> tuple[int, int]:
    """(rank, size) of the data-parallel group."""
    from megatron.core import parallel_state

    return parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()


def data_group() -> dist.ProcessGroup:
    """The data-parallel group."""
    from megatron.core import parallel_state

    return parallel_state.get_data_parallel_group()
