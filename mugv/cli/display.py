"""Draws a run while it goes on, from its records: a moving line on a terminal, a plain line now and then elsewhere.

Within the first minute one line says how long the run takes in all, by what has been done of it so far, and each stage that ends says
how much is left. Once the clips are there, a line says where their pictures are.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from mugv.cli.expected import Estimate, Expected, estimate, expected, minutes
from mugv.platform.records import RunRecord
from mugv.stages.progress import describe
from mugv.store.uri import file_path

if TYPE_CHECKING:
    from mugv.recipe import Recipe
    from mugv.stages.graph import Node

REFRESH_SECONDS = 0.5
ESTIMATE_AFTER = 40.0
"""Seconds after which the whole run's time is told; the first ones say little of training."""
PLAIN_LINE_SECONDS = 15.0


class RunDisplay(AbstractContextManager["RunDisplay"]):
    """Follows one run in a daemon thread. `nodes`: the stages that it goes through."""

    def __init__(self, record: RunRecord, recipe: Recipe, nodes: list[Node]) -> None:
        from rich.console import Console

        self.record, self.recipe, self.nodes = record, recipe, nodes
        self.stages = len(nodes)
        self._plan: dict[str, Expected] | None = None
        self._told = False
        self._began = time.time()
        # The stream of now: kfp's talk is sent elsewhere by replacing sys.stdout while the pipeline runs.
        self.console = Console(file=sys.stdout, highlight=False)
        self._ended: set[str] = set()
        self._first: dict[str, tuple[float, int]] = {}
        self._line_at: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="display", daemon=True)

    def __enter__(self) -> RunDisplay:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def _loop(self) -> None:
        if self.console.is_terminal:
            with self.console.status("starting") as status:
                while not self._stop.wait(REFRESH_SECONDS):
                    status.update("\n".join(self._draw()) or "starting")
                self._draw()
        else:
            while not self._stop.wait(REFRESH_SECONDS):
                self._plain(self._draw())
            self._draw()

    def _draw(self) -> list[str]:
        """Print what has ended since the last time; returns a line for each stage that is running."""
        lines = []
        for stage in self.record.stages():
            node = stage["node"]
            if stage["status"] != "running":
                if node not in self._ended:
                    self._ended.add(node)
                    self._say(f"[{len(self._ended)}/{self.stages}] {_ended(stage)}{self._left(stage)}")
                    self._say_pictures(stage)
                continue
            lines.append(self._running(node, stage))
        self._say_estimate()
        return lines

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    def _estimate(self) -> Estimate | None:
        if self._plan is None:
            self._plan = expected(self.recipe, self.nodes)
        stages = self.record.stages()
        progress = {stage["node"]: self.record.progress(stage["node"]) for stage in stages}
        return estimate(self._plan, stages, progress, self._began, time.time())

    def _say_estimate(self) -> None:
        """Once, within the first minute of a run that has that long to go."""
        if self._told or time.time() - self._began < ESTIMATE_AFTER:
            return
        found = self._estimate()
        if found is None:
            return
        self._told = True
        self._say(f"the whole run takes about {minutes(found.total)}, by what it has done so far; about {minutes(found.left)} are left")

    def _left(self, stage: dict[str, Any]) -> str:
        if not self._told or stage["status"] in ("hit", "not needed"):
            return ""
        found = self._estimate()
        return f"; about {minutes(found.left)} left" if found and found.left > 1 else ""

    def _say_pictures(self, stage: dict[str, Any]) -> None:
        """The clip set's report, in a store that is a folder."""
        place = stage.get("output", {}).get("uri", "")
        page = file_path(place) / "report.html"
        if stage["node"] == "curate" and place.startswith("file://") and page.is_file():
            self._say(f"pictures of the clips, kept and rejected: {page}; generated ones: {self.record.folder / 'report.html'} at the end")

    def _running(self, node: str, stage: dict[str, Any]) -> str:
        progress = self.record.progress(node)
        if not progress or progress["time"] < stage["started"]:
            return f"{node} running for {time.time() - stage['started']:.0f} s"
        began, first = self._first.setdefault(node, (stage["started"], progress["done"] if progress["done"] > 1 else 0))
        elapsed = progress["time"] - began
        rate = (progress["done"] - first) / elapsed if elapsed > 0 else 0.0
        remaining = (progress["total"] - progress["done"]) / rate if rate else 0.0
        return describe(node, progress["done"], progress["total"], progress["values"], rate, remaining)

    def _plain(self, lines: list[str]) -> None:
        now = time.monotonic()
        for line in lines:
            node = line.split(" ", 1)[0]
            if now - self._line_at.setdefault(node, now) >= PLAIN_LINE_SECONDS:
                self._line_at[node] = now
                self.console.print(line, soft_wrap=True, markup=False)


def _ended(stage: dict[str, Any]) -> str:
    if stage["status"] in ("hit", "not needed"):
        return f"{stage['node']}: {stage['status']}"
    seconds = stage.get("ended", stage["started"]) - stage["started"]
    return f"{stage['node']}: {stage['status']}, {seconds:.1f} s"
