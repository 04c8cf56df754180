"""A state dict that stays on disk: names, shapes and types are known, a tensor is read when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class LazyState(Mapping[str, Tensor]):
    """`state[name]` reads the tensor anew each time and keeps nothing."""

    def __init__(self, stored: Mapping[str, Stored], read: Callable[[str], Tensor]) -> None:
        self.stored, self._read = dict(stored), read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.stored:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self.stored.items()}

    @property
    def nbytes(self) -> int:
        return sum(stored.nbytes for stored in self.stored.values())

    def cast(self, dtype: torch.dtype) -> LazyState:
        """The same tensors in another type."""
        stored = {name: Stored(s.shape, dtype) for name, s in self.stored.items()}
        return LazyState(stored, lambda name: self[name].to(dtype))

    def watched(self, seen: Callable[[int], None]) -> LazyState:
        """Calls `seen` with the bytes of each tensor that is read."""

        def read(name: str) -> Tensor:
            tensor = self[name]
            seen(tensor.nbytes)
            return tensor

        return LazyState(self.stored, read)
