"""Interlaced pictures to progressive ones, by libav's filter bwdif: one picture for each, its other field made from its neighbours.

A stream that has no interlaced picture goes by untouched; from the first one on, the pictures that are not interlaced pass the filter
unchanged. The filter waits for the next picture, so each comes out one later.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Generic, TypeVar

import av

T = TypeVar("T")
FILTER, OPTIONS = "bwdif", "mode=send_frame:parity=auto:deint=interlaced"
LEAST_SIDE = 3
"""Smaller pictures the filter refuses."""


class Deinterlacer(Generic[T]):
    """Fed with the decoded pictures in order, each with what belongs to it; as many come out."""

    def __init__(self) -> None:
        self.graph: av.filter.Graph | None = None
        self.form: tuple[int, int, str] | None = None
        self.waiting: deque[T] = deque()
        self.fed = 0

    def feed(self, picture: av.VideoFrame, its: T) -> list[tuple[av.VideoFrame, T]]:
        """The pictures that are ready once this one is known."""
        if self.graph is None and not picture.interlaced_frame:
            return [(picture, its)]
        form = picture.width, picture.height, picture.format.name
        done = self.finish() if form != self.form else []
        if self.graph is None:
            if not picture.interlaced_frame or min(form[:2]) < LEAST_SIDE:
                return [*done, (picture, its)]
            self._build(picture)
        assert self.graph is not None
        self.waiting.append(its)
        self.fed += 1
        picture.pts = self.fed
        self.graph.push(picture)
        return [*done, *self._ready()]

    def finish(self) -> list[tuple[av.VideoFrame, T]]:
        """Those that still wait; the next picture begins anew."""
        if self.graph is None:
            return []
        self.graph.push(None)
        left = self._ready()
        self.graph = self.form = None
        return left

    def _build(self, picture: av.VideoFrame) -> None:
        self.form = picture.width, picture.height, picture.format.name
        self.graph = graph = av.filter.Graph()
        source = graph.add_buffer(width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1, 1000))
        graph.link_nodes(source, graph.add(FILTER, OPTIONS), graph.add("buffersink")).configure()

    def _ready(self) -> list[tuple[av.VideoFrame, T]]:
        assert self.graph is not None
        ready = []
        while True:
            try:
                ready.append((self.graph.vpull(), self.waiting.popleft()))
            except (av.error.BlockingIOError, av.error.EOFError):
                return ready
