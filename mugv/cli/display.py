"""Draws a run while it goes on, from its records: a moving line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import AbstractContextManager
from typing import Any

from mugv.platform.records import RunRecord
from mugv.stages.progress import describe

REFRESH_SECONDS = 0.5
PLAIN_LINE_SECONDS = 15.0


class RunDisplay(AbstractContextManager["RunDisplay"]):
    """Follows one run in a daemon thread. `stages`: how many the run has."""

    def __init__(self, record: RunRecord, stages: int) -> None:
        from rich.console import Console

        self.record = record
        self.stages = stages
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
                    self.console.print(f"[{len(self._ended)}/{self.stages}] {_ended(stage)}", soft_wrap=True, markup=False)
                continue
            lines.append(self._running(node, stage))
        return lines

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
