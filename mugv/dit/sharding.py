"""Which part of a parameter a tensor-parallel rank holds, and the network as megatron's sharded state: any layout in, any out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.utils import make_sharded_tensor_for_checkpoint, make_tp_sharded_tensor_for_checkpoint
from torch import Tensor, nn

from mugv.dit.model import MugDiT


def as_chunks(model: MugDiT | Sequence[MugDiT]) -> list[MugDiT]:
    """This rank's parts of a network, of which there is one unless pipelining is interleaved."""
    return [model] if isinstance(model, MugDiT) else list(model)


def is_split(parameter: Tensor) -> bool:
    """Whether the tensor-parallel ranks hold parts of it."""
    return getattr(parameter, "tensor_model_parallel", False) and parallel_state.get_tensor_model_parallel_world_size() > 1


def full_shape(parameter: Tensor) -> list[int]:
    """Shape of the parameter over all tensor-parallel ranks."""
    shape = list(parameter.shape)
    if is_split(parameter):
        shape[parameter.partition_dim] *= parallel_state.get_tensor_model_parallel_world_size()  # type: ignore[attr-defined]
    return shape


def shard(full: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a full tensor."""
    if not is_split(parameter):
        return full
    size = parallel_state.get_tensor_model_parallel_world_size()
    return full.chunk(size, dim=parameter.partition_dim)[parallel_state.get_tensor_model_parallel_rank()]  # type: ignore[attr-defined]


def sharded_state(chunks: Iterable[MugDiT]) -> dict[str, Any]:
    """Parameter name -> megatron ShardedTensor of everything that this rank holds; names are those of the whole network."""
    state: dict[str, Any] = {}
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if is_split(parameter):
                state[name] = make_tp_sharded_tensor_for_checkpoint(parameter, name, parameter.partition_dim)
            else:
                state[name] = make_sharded_tensor_for_checkpoint(parameter, name)
    return state


@torch.no_grad()
def load_state(chunks: Iterable[MugDiT], state: dict[str, Tensor]) -> None:
    """Set the parameters from a loaded sharded state."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            parameter.copy_(state[name])


def allocate(model: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Give a network made on the meta device memory without values. `Module.to_empty` would lose what megatron marks parameters with."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            made = nn.Parameter(torch.empty_like(parameter, device=device, dtype=dtype), parameter.requires_grad)
            made.__dict__.update(parameter.__dict__)
            module.register_parameter(name, made)
