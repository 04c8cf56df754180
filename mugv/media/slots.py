"""Memory of pictures that two processes share: one writes a picture into a slot, the other reads it and gives the slot back.

The file is anonymous (no folder such as /dev/shm limits it) and sparse. `Writer` finds room; `Reader` makes arrays of a slot,
which is free again when the last of them, and of what was sliced from them, is gone.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

TOGETHER = 16
"""Slots that are mapped at once: every mapping holds a file descriptor."""


class Slot(NamedTuple):
    """One of the TOGETHER places of `size` bytes that begin at offset `start` of the file."""

    start: int
    size: int
    place: int


class Writer:
    """Slots of one size, that of the largest picture so far: a larger one lets them go. Memory that was used is used again."""

    def __init__(self, file: int) -> None:
        self.file, self.end, self.size = file, 0, 0
        self.maps: dict[int, mmap.mmap] = {}
        self.dropped: Counter[int] = Counter()
        self.free: list[Slot] = []

    def write(self, parts: list[np.ndarray]) -> Slot:
        """A slot that holds the bytes of the arrays, one after the other."""
        size = sum(part.nbytes for part in parts)
        if size > self.size:
            self._resize(size + -size % mmap.ALLOCATIONGRANULARITY)
        if not self.free:
            self._grow()
        slot = self.free.pop()
        memory, at = self.maps[slot.start], slot.place * slot.size
        for part in parts:
            np.copyto(np.frombuffer(memory, part.dtype, part.size, at).reshape(part.shape), part)
            at += part.nbytes
        return slot

    def take_back(self, slots: Iterable[Slot]) -> None:
        """These are read no more."""
        for slot in slots:
            if slot.size == self.size:
                self.free.append(slot)
            else:
                self._drop(slot)

    def _resize(self, size: int) -> None:
        for slot in self.free:
            self._drop(slot)
        self.free, self.size = [], size

    def _grow(self) -> None:
        start, size = self.end, self.size
        self.end += TOGETHER * size
        os.ftruncate(self.file, self.end)
        self.maps[start] = mmap.mmap(self.file, TOGETHER * size, offset=start)
        self.free = [Slot(start, size, place) for place in reversed(range(TOGETHER))]

    def _drop(self, slot: Slot) -> None:
        """Give the pages back to the system; the place in the file is not used again."""
        memory = self.maps[slot.start]
        if hasattr(mmap, "MADV_REMOVE"):
            memory.madvise(mmap.MADV_REMOVE, slot.place * slot.size, slot.size)
        self.dropped[slot.start] += 1
        if self.dropped[slot.start] == TOGETHER:
            del self.maps[slot.start], self.dropped[slot.start]


class Reader:
    """The other side. `freed` collects the slots of which no array is left."""

    def __init__(self, file: int) -> None:
        self.file, self.size = file, 0
        self.maps: dict[int, np.ndarray] = {}
        self.freed: deque[Slot] = deque()

    def read(self, slot: Slot) -> np.ndarray:
        """uint8 [bytes] of a slot; not copied."""
        if slot.size != self.size:
            self.maps, self.size = {}, slot.size
        if slot.start not in self.maps:
            self.maps[slot.start] = np.frombuffer(mmap.mmap(self.file, TOGETHER * slot.size, offset=slot.start), np.uint8)
        memory = self.maps[slot.start][slot.place * slot.size : (slot.place + 1) * slot.size]
        return np.asarray(_Lent(memory, slot, self.freed))

    def take_freed(self) -> list[Slot]:
        """What was freed since the last call."""
        return [self.freed.popleft() for _ in range(len(self.freed))]


class _Lent:
    """Every array of a slot keeps this object; it ends with the last of them."""

    __slots__ = ("__array_interface__", "freed", "memory", "slot")

    def __init__(self, memory: np.ndarray, slot: Slot, freed: deque[Slot]) -> None:
        self.__array_interface__: dict[str, Any] = memory.__array_interface__
        self.memory, self.slot, self.freed = memory, slot, freed

    def __del__(self) -> None:
        self.freed.append(self.slot)
