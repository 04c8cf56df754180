"""An iterator that runs in a thread of its own, a bounded number of items ahead of its reader.

The decoder and OpenCV work outside the interpreter's lock, so decoding and what is made of the frames share the cores.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], depth: int, batch: int = 1) -> Iterator[T]:
    """The same items in order, about `depth` of them waiting; an error of `items` is raised here, after the items before it.

    `batch`: items handed over at a time; more of them cost less waiting between the threads.
    """
    for group in _ahead(_grouped(items, batch), max(1, depth // batch)):
        yield from group.items
        if group.error:
            raise group.error


@dataclass
class _Group(Generic[T]):
    items: list[T]
    error: BaseException | None = None


def _grouped(items: Iterable[T], batch: int) -> Iterator[_Group[T]]:
    """Groups of `batch`; an error ends the last one, which holds what came before it."""
    group: _Group[T] = _Group([])
    try:
        for item in items:
            group.items.append(item)
            if len(group.items) == batch:
                yield group
                group = _Group([])
    except Exception as error:
        group.error = error
    if group.items or group.error:
        yield group


def _ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """Runs `items`, which raises nothing: `_grouped` carries errors."""
    waiting: queue.Queue[T] = queue.Queue(depth)
    ended = object()
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)  # type: ignore[arg-type]
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        finally:
            put(ended)

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not ended:
            yield item
    finally:
        stop.set()
        thread.join()
