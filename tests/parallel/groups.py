"""Ends the process groups of a layout, so that the next case of a worker starts with none."""

from __future__ import annotations

import gc

import torch.distributed as dist


def release() -> None:
    """megatron only forgets its groups, and each forgotten gloo group keeps threads that wake every ten milliseconds: after twenty
    cases four processes had two thousand of them."""
    from megatron.core import parallel_state

    dist.barrier()
    parallel_state.destroy_model_parallel()
    gc.collect()
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)
