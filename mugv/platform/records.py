"""What a run leaves behind for people and for the tracker: `runs/<run>/run.json` and one `stages/<node>.json` a stage.

Every process of a run writes here with whole-file replaces, so a reader never sees half a record. Standard library only.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mugv.errors import UserError

FINISHED = frozenset({"ran", "resumed", "hit", "not needed"})
"""Statuses of a stage that ended well. The others: running, failed, interrupted, killed."""

ERROR_MARK = "mugv-error: "
"""Starts the line by which a stage's process says in one line why it stopped, when its record may not be writable."""


def new_run_id() -> str:
    """Sortable by time, unique: `20261122-155544-3fa1`."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The record in `path`; an absent file is an empty record."""
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return record


@dataclass(frozen=True)
class RunRecord:
    """The folder of one run."""

    folder: Path

    @classmethod
    def of(cls, state: Path, run: str) -> RunRecord:
        return cls(state / "runs" / run)

    @property
    def run(self) -> str:
        return self.folder.name

    def read(self) -> dict[str, Any]:
        return read_json(self.folder / "run.json")

    def update(self, **fields: Any) -> None:
        write_json(self.folder / "run.json", {**self.read(), **fields})

    def stage(self, node: str) -> dict[str, Any]:
        return read_json(self._stage_file(node))

    def update_stage(self, node: str, **fields: Any) -> None:
        write_json(self._stage_file(node), {**self.stage(node), "node": node, **fields})

    def stages(self) -> list[dict[str, Any]]:
        """Records of the stages seen so far, by start time."""
        found = [read_json(p) for p in sorted((self.folder / "stages").glob("*.json"))]
        return sorted(found, key=lambda r: (r.get("started", 0.0), r["node"]))

    def curves(self, node: str) -> Path:
        """Where the metric files of a stage are kept once its work folder is gone."""
        return self.folder / "curves" / node

    def write_progress(self, node: str, done: int, total: int, values: dict[str, float]) -> None:
        write_json(self.folder / "progress" / f"{node}.json", {"done": done, "total": total, "values": values, "time": time.time()})

    def progress(self, node: str) -> dict[str, Any]:
        return read_json(self.folder / "progress" / f"{node}.json")

    def _stage_file(self, node: str) -> Path:
        return self.folder / "stages" / f"{node}.json"


def all_runs(state: Path) -> Iterator[RunRecord]:
    """Runs of a state folder, newest first."""
    for folder in sorted((state / "runs").glob("*"), reverse=True):
        if (folder / "run.json").is_file():
            yield RunRecord(folder)


def made_by(state: Path, key: str) -> dict[str, Any]:
    """The record of the stage that made the output of a cache key; {} when no run of this state folder did."""
    for run in all_runs(state):
        for stage in run.stages():
            if stage.get("key") == key and stage["status"] in ("ran", "resumed"):
                return stage
    return {}


def find_run(state: Path, run: str) -> RunRecord:
    """The run called `run`, or the newest one for `latest`."""
    known = [r.run for r in all_runs(state)]
    if run == "latest" and known:
        return RunRecord.of(state, known[0])
    matches = [name for name in known if name.startswith(run)]
    if len(matches) != 1:
        what = "no run" if not matches else f"{len(matches)} runs"
        raise UserError(f"run {run}: {what} of that name in {state}; known: {', '.join(known[:5]) or 'none yet'}")
    return RunRecord.of(state, matches[0])
