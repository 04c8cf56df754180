"""Training's only way to speak: a JSONL file of metrics beside the checkpoints. Forwarding it is the platform's work."""

from __future__ import annotations

import json
import time
from pathlib import Path

from mugv.durable import replace_text


class MetricsLog:
    """Appends `{"step": int, "time": unix seconds, name: value, ...}` lines; one writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, **values: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")

    def rewind(self, step: int) -> dict[str, float]:
        """Drop lines of `step` and later, and a last line cut short by a kill: what a resumed run writes again.

        Returns what is repeated: `repeated_steps`, `repeated_seconds`, and `until`, the time of the last one.
        """
        if not self.path.exists():
            return {}
        lines = self.path.read_text().splitlines()
        kept = [line for line in lines if _step_of(line) < step]
        gone = [json.loads(line) for line in lines if step <= _step_of(line) < 1 << 60]
        replace_text(self.path, "".join(line + "\n" for line in kept), lasting=False)
        seconds = round(sum(line.get("seconds", 0.0) for line in gone), 3)
        return {"repeated_steps": len(gone), "repeated_seconds": seconds, "until": max(line["time"] for line in gone)} if gone else {}

    def read(self) -> list[dict[str, float]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines() if _step_of(line) < 1 << 60]


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 60
