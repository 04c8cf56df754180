"""Process groups of a worker that runs case after case: kept while the layout stays, ended when it changes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch.distributed as dist

SHAPE = ("tensor", "pipeline", "context", "virtual_pipeline")


def shape(layout: Mapping[str, Any]) -> tuple[int, ...]:
    """What decides the process groups of a layout."""
    return tuple(layout.get(key, 1) for key in SHAPE)


def by_shape(layouts: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of layouts, those of one shape together, in the order of each shape's first."""
    first: dict[tuple[int, ...], int] = {}
    return sorted(range(len(layouts)), key=lambda i: first.setdefault(shape(layouts[i]), i))


def grouped(cases: Sequence[dict]) -> Iterator[dict]:
    """The cases, those with the same process groups after one another; the groups end where the next case needs others."""
    order = by_shape([case["layout"] for case in cases])
    for i, following in zip(order, [*order[1:], None], strict=True):
        yield cases[i]
        if following is None or shape(cases[i]["layout"]) != shape(cases[following]["layout"]):
            release()


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
