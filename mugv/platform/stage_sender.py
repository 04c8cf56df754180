"""Sends one stage's record to MLflow: a nested run with its parameters, live curves, data sets, metrics, pages and pictures."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mugv.platform.datasets import stage_datasets
from mugv.platform.lineage import code_tags
from mugv.platform.records import DamagedRecordError, RunRecord, read_json, write_json
from mugv.platform.system_metrics import system_file
from mugv.platform.tracking import Tracking
from mugv.redact import redact

METRICS_A_CALL = 1000
PARAMETERS_A_CALL = 100
ARTIFACT_SUFFIXES = {".html", ".png", ".md"}
LARGEST_ARTIFACT = 20 << 20
_STATUS = {"ran": "FINISHED", "resumed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}


class StageSender:
    """Sends one stage's record; a small file remembers what was sent, so a new process goes on where the last one stopped."""

    def __init__(self, tracking: Tracking, record: RunRecord, parent: str, stage: dict[str, Any]) -> None:
        self.tracking = tracking
        self.record = record
        self.parent = parent
        self.stage = stage
        self.node: str = stage["node"]
        self.file = record.folder / "tracking" / "stages" / f"{self.node}.json"
        self.sent: dict[str, Any] = {"lines": {}, **sent_so_far(self.file)}

    def send(self) -> None:
        if self._sent_whole():
            return
        if self.stage["status"] in ("hit", "not needed"):
            self._send_hit()
            return
        run_id = self._run()
        for path, name in self._curve_files():
            self._send_curve(run_id, path, name)
        if self.stage["status"] != "running":
            self._end(run_id)

    def _sent_whole(self) -> bool:
        """A stage that was tried again after it had ended is not."""
        return bool(self.sent.get("complete")) and self.sent.get("started", self.stage["started"]) == self.stage["started"]

    def _send_hit(self) -> None:
        """A tag of the parent; a run that an earlier try of the stage left open is ended: its output is what the hit found."""
        self.tracking.client.set_tag(self.parent, f"mugv.stage.{self.node}", f"{self.stage['status']} {self.stage['key'][:12]}")
        if "run_id" in self.sent and not self.sent.get("complete"):
            self.tracking.client.set_terminated(self.sent["run_id"], "FINISHED")
        self._remember(complete=True, started=self.stage["started"])

    def _run(self) -> str:
        if "run_id" not in self.sent:
            tags = {"mlflow.parentRunId": self.parent, "mugv.run": self.record.run, "mugv.stage": self.stage["stage"]}
            tags |= {"mugv.key": self.stage["key"], **code_tags({**self.record.read(), **self.stage})}
            self._remember(run_id=self.tracking.start_run(self.node, self.stage["started"], tags), started=self.stage["started"])
        run_id = str(self.sent["run_id"])
        if self.sent.get("complete"):
            self.tracking.client.update_run(run_id, status="RUNNING")
            self._remember(complete=False, started=self.stage["started"])
        if not self.sent.get("described"):
            self._describe(run_id)
            self._remember(described=True)
        return run_id

    def _describe(self, run_id: str) -> None:
        from mlflow.entities import Param

        parameters = [Param(name, redact(str(value))[:6000]) for name, value in self.stage.get("params", {}).items()]
        for start in range(0, len(parameters), PARAMETERS_A_CALL):
            self.tracking.client.log_batch(run_id, params=parameters[start : start + PARAMETERS_A_CALL])
        inputs = stage_datasets(self.record.read(), self.stage)
        if inputs:
            self.tracking.client.log_inputs(run_id, datasets=inputs)

    def _curve_files(self) -> Iterator[tuple[Path, str]]:
        """Metric files of the stage and the prefix of their metrics: kept ones once the stage is done, else in its work folder."""
        kept = self.record.curves(self.node)
        folder = kept if kept.is_dir() else Path(self.stage.get("work", kept))
        for path in sorted(folder.rglob("metrics.jsonl")):
            parts = [p for p in path.relative_to(folder).parent.parts if p != "train"]
            yield path, "".join(f"{p}/" for p in parts)
        if (samples := system_file(self.record, self.node)).is_file():
            yield samples, "system/"

    def _send_curve(self, run_id: str, path: Path, prefix: str) -> None:
        from mlflow.entities import Metric

        whole = path.read_bytes().split(b"\n")[:-1]
        metrics = []
        start = self.sent["lines"].get(prefix, 0)
        for line in whole[start:]:
            values = _numbers(line)
            if {"step", "time"} <= set(values):
                step, when = int(values.pop("step")), int(values.pop("time") * 1000)
                metrics += [Metric(prefix + k, v, when, step) for k, v in values.items()]
        for first in range(0, len(metrics), METRICS_A_CALL):
            self.tracking.client.log_batch(run_id, metrics=metrics[first : first + METRICS_A_CALL])
        if len(whole) > start:
            self._remember(lines={**self.sent["lines"], prefix: len(whole)})

    def _end(self, run_id: str) -> None:
        from mlflow.entities import Metric, RunTag

        ended = int(self.stage.get("ended", time.time()) * 1000)
        values = {**self.stage.get("metrics", {}), "stage_seconds": self.stage.get("stage_seconds", 0.0)}
        output = self.stage.get("output", {})
        tags = {"mugv.status": self.stage["status"], "mugv.output": output.get("uri", ""), "mugv.digest": output.get("digest", "")}
        tags["mugv.error"] = self.stage.get("error", "")[:5000]
        metrics = [Metric(name, float(value), ended, 0) for name, value in values.items() if _is_number(value)]
        self.tracking.client.log_batch(run_id, metrics=metrics, tags=[RunTag(k, v) for k, v in tags.items() if v])
        if output:
            self._send_artifacts(run_id, output)
        self.tracking.client.set_terminated(run_id, _STATUS.get(self.stage["status"], "FAILED"), ended)
        self._remember(complete=True)

    def _send_artifacts(self, run_id: str, output: dict[str, str]) -> None:
        """Pages and pictures of an output, for people who look at MLflow. Nothing else of it is fetched: it may be a data set."""
        from mugv.store import open_store
        from mugv.store.manifest import NAME, Manifest

        inside = f"{self.stage['stage']}/{output['key']}"
        store = open_store(output["uri"].removesuffix(f"/{inside}"), self.record.folder.parents[1] / "cache")
        with tempfile.TemporaryDirectory() as folder:
            store.get_file(f"{inside}/{NAME}", Path(folder) / NAME)
            for name, entry in Manifest.parse((Path(folder) / NAME).read_bytes()).files.items():
                if Path(name).suffix in ARTIFACT_SUFFIXES and entry.bytes <= LARGEST_ARTIFACT:
                    store.get_file(f"{inside}/{name}", local := Path(folder) / Path(name).name)
                    self.tracking.client.log_artifact(run_id, str(local), name.rpartition("/")[0] or None)

    def _remember(self, **fields: Any) -> None:
        self.sent = {**self.sent, **fields}
        write_json(self.file, self.sent)


def sent_so_far(path: Path) -> dict[str, Any]:
    """What a sender remembers; when that is damaged, it begins anew."""
    try:
        return read_json(path)
    except DamagedRecordError:
        return {}


def _numbers(line: bytes) -> dict[str, float]:
    """The numbers of a line of a metrics file; {} for a line that a power cut damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return {name: float(value) for name, value in values.items() if _is_number(value)} if isinstance(values, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (math.isfinite(value) or math.isnan(value))
