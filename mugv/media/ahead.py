"""An iterator that runs in a thread of its own, a bounded number of items ahead of its reader.

The decoder and OpenCV work outside the interpreter's lock, so decoding and what is made of the frames share the cores.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in order, at most `depth` of them waiting; an error of `items` is raised here, after the items before it."""
    waiting: queue.Queue[T] = queue.Queue(depth)
    ended = object()
    failed: list[BaseException] = []
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
        except BaseException as error:
            failed.append(error)
        finally:
            put(ended)

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not ended:
            yield item
        if failed:
            raise failed[0]
    finally:
        stop.set()
        thread.join()
