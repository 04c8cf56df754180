"""The exact weights of a network in training: fp32, whatever the precision of its parameters.

In bf16 the optimizer updates fp32 masters, of which the parameters are roundings: an update below half a step of bf16 is in the masters
alone. What a stage starts from, averages, merges and hands on are the masters. Under the distributed optimizer each data-parallel rank has
its share of them; in fp32 the parameters are their own masters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer, Float16OptimizerWithFloat16Params, MegatronOptimizer
from torch import Tensor

from mugv.dit.lora import add_adapters, settings_of
from mugv.dit.model import MugDiT
from mugv.dit.sharding import allocate


class Share(NamedTuple):
    """This rank's part of a parameter's master: the optimizer's tensor, and where it begins in the flat parameter."""

    value: Tensor
    start: int


def all_parameters(chunks: Sequence[MugDiT]) -> list[Tensor]:
    return list(chain.from_iterable(chunk.parameters() for chunk in chunks))


def empty_copy(chunk: MugDiT, dtype: torch.dtype) -> MugDiT:
    """The same part of the network, adapters included, without values (process groups cannot be deep-copied)."""
    first = next(chunk.parameters())
    with torch.device("meta"):
        copy = MugDiT(chunk.config, chunk.range)
        if settings := settings_of(chunk):
            add_adapters(copy, settings)
    allocate(copy, first.device, dtype)
    for mine, theirs in zip(copy.parameters(), chunk.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return copy.eval()


@torch.no_grad()
def frozen_copy(chunk: MugDiT, dtype: torch.dtype | None = None) -> MugDiT:
    """An equal network without gradients, rounded to `dtype` where one is given."""
    copy = empty_copy(chunk, dtype or next(chunk.parameters()).dtype)
    for mine, theirs in zip(copy.parameters(), chunk.parameters(), strict=True):
        mine.copy_(theirs)
    return copy.requires_grad_(False)


def lower(chunks: Sequence[MugDiT], dtype: torch.dtype) -> dict[int, Tensor]:
    """Round the parameters to the precision of the training; id(parameter) -> exact value of those that it does not hold."""
    exact = {}
    for parameter in all_parameters(chunks):
        value, parameter.data = parameter.data, parameter.data.to(dtype)
        if value.dtype != dtype and not torch.equal(parameter.data.to(value.dtype), value):
            exact[id(parameter)] = value
    return exact


class Masters:
    """The exact weights beside the parameters of `chunks`, which `optimizer` trains. `exact`: what `lower` returned."""

    @torch.no_grad()
    def __init__(self, chunks: Sequence[MugDiT], optimizer: MegatronOptimizer, exact: dict[int, Tensor]) -> None:
        self.chunks = list(chunks)
        self.rounded = next(chunks[0].parameters()).dtype != torch.float32
        parts = optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]
        self.sharded = any(isinstance(part, DistributedOptimizer) for part in parts)
        self.shares = {id(parameter): share for part in parts for parameter, share in _shares(part)}
        trained = {id(p) for p in all_parameters(chunks) if p.requires_grad}
        # Frozen weights that bf16 does not hold wait in the host's memory until adapters are merged into them.
        self.frozen = {key: value.cpu() for key, value in exact.items() if key not in trained}
        for key, share in self.shares.items():
            if key in exact:
                share.value.copy_(_part(exact[key], share))

    def values(self) -> list[Tensor]:
        """This rank's shares, as the optimizer holds them."""
        return [share.value.detach() for share in self.shares.values()]

    @torch.no_grad()
    def shares_of(self, network: Sequence[MugDiT]) -> list[Tensor]:
        """What this rank's shares are in another network of the same layout."""
        theirs = {id(own): other for own, other in zip(all_parameters(self.chunks), all_parameters(network), strict=True)}
        return [_part(theirs[key], share).detach().clone() for key, share in self.shares.items()]

    @torch.no_grad()
    def network(self, values: Sequence[Tensor]) -> list[MugDiT]:
        """A network in fp32 whose trained weights are `values`, one a share; every rank calls it, and has whole weights."""
        shares = {key: Share(value, share.start) for (key, share), value in zip(self.shares.items(), values, strict=True)}
        copies = [empty_copy(chunk, torch.float32) for chunk in self.chunks]
        for parameter, target in zip(all_parameters(self.chunks), all_parameters(copies), strict=True):
            if not parameter.requires_grad:
                target.copy_(self.frozen.get(id(parameter), parameter))
                continue
            if self.sharded:
                target.zero_()
            if (share := shares.get(id(parameter))) is not None:
                _part(target, share).copy_(share.value)
            if self.sharded:
                dist.all_reduce(target, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return copies


def _part(whole: Tensor, share: Share) -> Tensor:
    return whole.view(-1)[share.start : share.start + share.value.numel()].view_as(share.value)


def _shares(optimizer: Any) -> Iterator[tuple[Tensor, Share]]:
    """What one of megatron's optimizers updates in place of each parameter."""
    if optimizer.is_stub_optimizer:
        return
    if isinstance(optimizer, DistributedOptimizer):
        models = chain(*optimizer.model_float16_groups, *optimizer.model_fp32_groups)
        values = chain(*optimizer.shard_fp32_from_float16_groups, *optimizer.shard_fp32_groups)
        for parameter, value in zip(models, values, strict=True):
            yield parameter, Share(value, optimizer._get_model_param_range_map(parameter)["param"].start)
    elif isinstance(optimizer, Float16OptimizerWithFloat16Params):
        models = chain(*optimizer.float16_groups, *optimizer.fp32_from_fp32_groups)
        values = chain(*optimizer.fp32_from_float16_groups, *optimizer.fp32_from_fp32_groups)
        yield from ((parameter, Share(value, 0)) for parameter, value in zip(models, values, strict=True))
    else:
        yield from ((parameter, Share(parameter, 0)) for parameter in optimizer.get_parameters())
