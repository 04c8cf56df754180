"""What a stage used, told line by line into its work folder: an append-only file, so that whoever is killed leaves what it told so far.

    {"event": "try", "time": ..., "run": ..., "started": ..., "gpus": ...}   a process begins on the stage
    {"event": "inputs", ...}                                                 its inputs are here
    {"event": "launched", ...}                                               its ranks run, after a queue or not; again after a failure
    {"event": "use", "cpu_seconds": ..., "bytes": ...}                       now and then: so far in this try
    {"event": "begin", "step": ..., "repeated_steps": ..., ...}              training goes on from a checkpoint; what it does again
    {"event": "save", "step": ..., "saves": ..., "seconds": ...}             checkpoints since the last such line; the loop stood still
    {"event": "end", ...}                                                    the try ended by itself, however

`summary` makes numbers of it. Standard library only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

NAME = "ledger.jsonl"
CURVE = "metrics.jsonl"
"""Of each training: a line a step that counts, with its `seconds`."""


class Ledger:
    """Appends to one file. Never an error of the stage: a full disk costs lines."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def write(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError:
            pass


def entries(work: Path) -> list[dict[str, Any]]:
    """Of a work folder and all below it, in the order of time. Damaged lines are left out."""
    found = [line for path in work.rglob(NAME) for line in _lines(path) if "event" in line]
    return sorted(found, key=lambda line: line["time"])


def summary(work: Path) -> dict[str, float]:
    """Seconds, bytes and counts of a stage so far, over all its tries; {} where nothing was told. `goodput` where it trains.

    Between two tries of one run the stage is `down`; between two runs nobody asked for it. A killed try lasted until its last line.
    """
    told = entries(work)
    starts = [line for line in told if line["event"] == "try"]
    if not starts:
        return {}
    bounds = [line["time"] for line in starts[1:]] + [float("inf")]
    tries = [
        _Try(start, [line for line in told if start["time"] <= line["time"] < bound]) for start, bound in zip(starts, bounds, strict=True)
    ]
    for one, following in pairwise(tries):
        one.ended = min(max(one.ended, following.seen), following.began)
    between = sum(second.began - first.ended for first, second in pairwise(tries) if first.run == second.run)
    down = between + sum(one.down for one in tries)
    wall = sum(one.wall for one in tries) + between
    found = {
        "tries": len(tries) + sum(one.launches for one in tries),
        "wall_seconds": wall,
        "cpu_seconds": sum(one.last("use", "cpu_seconds") for one in tries),
        "peak_bytes": max(one.most("use", "bytes") for one in tries),
        "gpus": max(one.gpus for one in tries),
        "gpu_seconds": sum(one.wall * one.gpus for one in tries),
        "waiting_seconds": sum(one.waiting for one in tries),
        "down_seconds": down,
    }
    if any(line["event"] == "begin" for line in told):
        found |= _training(work, tries, found)
    return {name: round(float(value), 3) for name, value in found.items()}


class _Try:
    """One process's work on a stage."""

    def __init__(self, start: dict[str, Any], lines: Sequence[dict[str, Any]]) -> None:
        self.lines, self.run, self.gpus = lines, start.get("run", ""), _number(start, "gpus")
        self.began = min(_number(start, "started") or start["time"], start["time"])
        self.ended = max(line["time"] for line in lines)
        begins = [line for line in lines if line["event"] == "begin"]
        self.seen = _number(begins[0], "until") if begins else 0.0
        """Last step of the try before, which only the step's own line told."""
        ready = next((line["time"] for line in lines if line["event"] == "inputs"), start["time"])
        launched = [line["time"] for line in lines if line["event"] == "launched"]
        starts = launched or [ready]
        self.waiting = starts[0] - self.began
        bounds = [*starts[1:], float("inf")]
        firsts = [next((b["time"] for b in begins if at <= b["time"] < bound), at) for at, bound in zip(starts, bounds, strict=True)]
        self.starting = sum(first - at for at, first in zip(starts, firsts, strict=True))
        self.launches = len(starts) - 1
        self.down = sum(at - self._alive(at) for at in starts[1:])

    def _alive(self, at: float) -> float:
        """Last sign of life of the ranks before those that were launched at a time."""
        signs = [line["time"] for line in self.lines if line["event"] in ("launched", "begin", "save") and line["time"] < at]
        lost = next((_number(line, "until") for line in self.lines if line["event"] == "begin" and line["time"] >= at), 0.0)
        return min(at, max([*signs, lost]))

    @property
    def wall(self) -> float:
        return max(0.0, self.ended - self.began)

    def last(self, event: str, name: str) -> float:
        return next((_number(line, name) for line in reversed(self.lines) if line["event"] == event), 0.0)

    def most(self, event: str, name: str) -> float:
        return max((_number(line, name) for line in self.lines if line["event"] == event), default=0.0)

    def total(self, event: str, name: str) -> float:
        return sum(_number(line, name) for line in self.lines if line["event"] == event)


def _training(work: Path, tries: Sequence[_Try], found: dict[str, float]) -> dict[str, float]:
    steps = [_number(line, "seconds") for path in work.rglob(CURVE) for line in _lines(path)]
    useful, wall = sum(steps), found["wall_seconds"]
    losses = {
        "starting_seconds": sum(one.starting for one in tries),
        "saving_seconds": sum(one.total("save", "seconds") for one in tries),
        "repeated_seconds": sum(one.total("begin", "repeated_seconds") for one in tries),
    }
    explained = useful + sum(losses.values()) + found["waiting_seconds"] + found["down_seconds"]
    return {
        "steps": len(steps),
        "useful_seconds": useful,
        "saves": sum(one.total("save", "saves") for one in tries),
        "repeated_steps": sum(one.total("begin", "repeated_steps") for one in tries),
        **losses,
        "other_seconds": max(0.0, wall - explained),
        "goodput": min(1.0, useful / wall) if wall else 0.0,
    }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and isinstance(found.get("time"), (int, float)):
            yield found


def _number(line: dict[str, Any], name: str) -> float:
    value = line.get(name)
    return float(value) if isinstance(value, (int, float)) and value == value and abs(value) < 1e15 else 0.0
