"""Measured memory on CPU, each storage once: bytes that autograd keeps for backward, and the peak of all living tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def saved_bytes(network: torch.nn.Module, forward: Callable[[], Tensor], also: Sequence[Tensor] = ()) -> int:
    """Of `forward()`, after it, and of the tensors `also`: storages freed meanwhile (selective recompute) count for nothing."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in also}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    total = sum(storage.nbytes() for storage in kept.values())
    loss.backward()  # what was counted is what backward needs
    return total


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes that lived at once after any operation, made inside the context; `without` are not counted."""

    def __init__(self, without: Iterable[Tensor]) -> None:
        super().__init__()
        self.without = {tensor.untyped_storage().data_ptr() for tensor in without}
        self.living: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.without:
                storage = tensor.untyped_storage()
                self.living[storage._cdata] = weakref.ref(storage)
        alive = [storage for ref in self.living.values() if (storage := ref()) is not None]
        self.living = {storage._cdata: weakref.ref(storage) for storage in alive}
        self.peak = max(self.peak, sum(storage.nbytes() for storage in alive))
        return out
