"""What a run leaves behind for people and for the tracker: `runs/<run>/run.json` and one `stages/<node>.json` a stage.

Every process of a run writes here with whole-file replaces, so a reader never sees half a record. What a power cut or another program
made of a record is never a traceback: a damaged one is named by those who show runs and left out by all others. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mugv.durable import replace_text
from mugv.errors import UserError

FINISHED = frozenset({"ran", "resumed", "hit", "not needed"})
"""Statuses of a stage that ended well. The others: running, failed, interrupted, killed."""

ERROR_MARK = "mugv-error: "
"""Starts the line by which a stage's process says in one line why it stopped, when its record may not be writable."""


SHARD_STAGES = frozenset({"curate_shard", "caption"})
SHARDS_TOLD = 32
"""Of more shards than these none has a run of its own in MLflow: nobody reads thousands, and the merge has their sums."""
_TIMED = re.compile(r"\d{8}-\d{6}-")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def new_run_id() -> str:
    """Sortable by time, unique: `20261122-155544-3fa1`."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)


def told(stage: str, shards: int) -> bool:
    """Whether MLflow gets a run for each node of a stage. `shards`: how many the recipe has."""
    return stage not in SHARD_STAGES or shards <= SHARDS_TOLD


class DamagedRecordError(UserError):
    """A record is not what a run writes; the message is one line that names the file."""


_NUMBERS = ("started", "ended", "stage_seconds")
_TEXTS = ("run", "name", "status", "recipe_digest", "data_digest", "store", "tracking", "error", "node", "stage", "key", "work")
_MAPPINGS: dict[str, type | tuple[type, ...]] = {
    "git": object,
    "keys": str,
    "dvc": str,
    "kfp": (int, float),
    "timing": (int, float),
    "metrics": (int, float),
    "usage": (int, float),
    "output": str,
    "inputs": dict,
    "params": object,
}
"""Fields that are mappings, and what their values are."""


def write_json(path: Path, value: Any, lasting: bool = True) -> None:
    """Replace `path` in one step, on the disk unless `lasting` is False."""
    replace_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n", lasting)


def write_once(path: Path, value: Any) -> bool:
    """Write `path` unless it is there; False when another process, on whichever machine, was first. The file is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_json(beside, value)
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A volume without links: two that begin at the same moment may both be first.
        if path.exists():
            return False
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return True


def read_json(path: Path) -> dict[str, Any]:
    """The record in `path`; an absent file is an empty record. Raises DamagedRecordError."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "not JSON"
        raise DamagedRecordError(f"{path}: damaged record ({why})") from None
    wrong = _wrong(record)
    if wrong:
        raise DamagedRecordError(f"{path}: damaged record ({wrong})")
    return dict(record)


def _wrong(record: Any) -> str:
    """What is wrong with the types of a record's fields; "" when all is right."""
    if not isinstance(record, dict):
        return "not a mapping"
    for name, value in record.items():
        if name in _NUMBERS and not (type(value) in (int, float) and 0 <= value < 1e11):
            return f"{name} is no time"
        if name in _TEXTS and not isinstance(value, str):
            return f"{name} is no text"
        if name in _MAPPINGS and not (isinstance(value, dict) and all(isinstance(v, _MAPPINGS[name]) for v in value.values())):
            return f"{name} is no mapping of the right kind"
    return ""


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
        write_json(self.folder / "run.json", {**_or_nothing(self.folder / "run.json"), **fields})

    def reopen(self) -> None:
        """A run that had ended goes on."""
        record = _or_nothing(self.folder / "run.json")
        record.pop("ended", None)
        write_json(self.folder / "run.json", {**record, "status": "running", "error": "", "tracked": False})

    def stage(self, node: str) -> dict[str, Any]:
        return read_json(self._stage_file(node))

    def update_stage(self, node: str, **fields: Any) -> None:
        write_json(self._stage_file(node), {**_or_nothing(self._stage_file(node)), "node": node, **fields})

    def remember_maker(self, node: str, key: str) -> None:
        """That the output of a cache key was made by this run's node; for `made_by`, without reading every run."""
        write_json(_maker(self.folder.parents[1], key), {"run": self.run, "node": node}, lasting=False)

    def stages(self) -> list[dict[str, Any]]:
        """Records of the stages seen so far, by start time; damaged ones are left out, and named by `damage`."""
        found = [{"status": "", **_or_nothing(p)} for p in self._stage_files()]
        return sorted((r for r in found if "node" in r), key=lambda r: (r.get("started", 0.0), r["node"]))

    def damage(self) -> list[str]:
        """A line for each damaged record of this run."""
        lines = []
        for path in (self.folder / "run.json", *self._stage_files()):
            try:
                if not read_json(path).get("run" if path.name == "run.json" else "node") and path.exists():
                    lines.append(f"{path}: damaged record (it says nothing)")
            except DamagedRecordError as error:
                lines.append(str(error))
        return lines

    def _stage_files(self) -> list[Path]:
        return sorted((self.folder / "stages").glob("[!.]*.json"))

    def curves(self, node: str) -> Path:
        """Where the metric files of a stage are kept once its work folder is gone."""
        return self.folder / "curves" / node

    def write_progress(self, node: str, done: int, total: int, values: dict[str, float]) -> None:
        progress = {"done": done, "total": total, "values": values, "time": time.time()}
        write_json(self.folder / "progress" / f"{node}.json", progress, lasting=False)

    def progress(self, node: str) -> dict[str, Any]:
        found = _or_nothing(self.folder / "progress" / f"{node}.json")
        counted = all(type(found.get(name)) in (int, float) for name in ("done", "total", "time"))
        return found if counted and isinstance(found.get("values"), dict) else {}

    def _stage_file(self, node: str) -> Path:
        return self.folder / "stages" / f"{node}.json"


def _or_nothing(path: Path) -> dict[str, Any]:
    """The record in `path`; a damaged one is an empty record, to be written anew."""
    try:
        return read_json(path)
    except DamagedRecordError:
        return {}


def all_runs(state: Path) -> Iterator[RunRecord]:
    """Runs of a state folder whose own record can be read, newest first."""
    for record in run_folders(state):
        if _or_nothing(record.folder / "run.json").get("run"):
            yield record


def run_folders(state: Path) -> Iterator[RunRecord]:
    """Everything that was a run, whatever became of its records, newest first."""
    folders = [folder for folder in (state / "runs").glob("*") if (folder / "run.json").exists()]
    for folder in sorted(folders, key=_begun, reverse=True):
        yield RunRecord(folder)


def _begun(folder: Path) -> tuple[str, str]:
    """When a run began, as its name begins; a cluster's run ids say nothing of time."""
    if _TIMED.match(folder.name):
        return folder.name[:15], folder.name
    began = _or_nothing(folder / "run.json").get("started", 0.0)
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(began)), folder.name


def _maker(state: Path, key: str) -> Path:
    return state / "made" / key[:2] / f"{key}.json"


def made_by(state: Path, key: str) -> dict[str, Any]:
    """The record of the stage that made the output of a cache key; {} when no run of this state folder did."""
    maker = _or_nothing(_maker(state, key))
    if {"run", "node"} <= set(maker):
        stage = _or_nothing(RunRecord.of(state, maker["run"])._stage_file(maker["node"]))
        if stage.get("key") == key:
            return {"status": "", **stage}
    for run in all_runs(state):
        for stage in run.stages():
            if stage.get("key") == key and stage["status"] in ("ran", "resumed"):
                return stage
    return {}


def find_run(state: Path, run: str) -> RunRecord:
    """The run called `run`, or the newest one for `latest`."""
    readable = [r.run for r in all_runs(state)]
    if run == "latest" and readable:
        return RunRecord.of(state, readable[0])
    known = [r.run for r in run_folders(state)]
    matches = [name for name in known if name.startswith(run)]
    if len(matches) != 1:
        what = "no run" if not matches else f"{len(matches)} runs"
        raise UserError(f"run {run}: {what} of that name in {state}; known: {', '.join(known[:5]) or 'none yet'}")
    return RunRecord.of(state, matches[0])
