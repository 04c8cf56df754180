"""What `mugv runs --json` and `mugv show --json` print. docs/how-to/scripts.md describes the keys; they stay."""

from __future__ import annotations

import json
from typing import Any

from mugv.cli.usage_table import run_usage
from mugv.platform.records import RunRecord
from mugv.stages.run_report import output, registered

HITS = ("hit", "not needed")


def run_line(record: RunRecord) -> dict[str, Any]:
    """A run in the list of runs."""
    run, stages = record.read(), record.stages()
    return {
        "run": record.run,
        "recipe": run.get("name"),
        "recipe_digest": run.get("recipe_digest"),
        "videos": run.get("videos"),
        "status": run.get("status"),
        "started": run.get("started"),
        "ended": run.get("ended"),
        "seconds": _seconds(run),
        "stage_count": len(stages),
        "hit_count": sum(stage["status"] in HITS for stage in stages),
    }


def run_document(record: RunRecord) -> dict[str, Any]:
    """One run with its stages, what was measured of its model, and the registered version."""
    run, report = record.read(), record.folder / "report.html"
    folder = output(record, "evaluate")
    measured = json.loads((folder / "report.json").read_text()) if folder else {}
    return {
        **run_line(record),
        "commit": run.get("git", {}).get("commit"),
        "error": run.get("error") or None,
        "stages": [_stage(stage) for stage in record.stages()],
        "facts": {fact["name"]: fact["value"] for fact in measured.get("facts", [])},
        "usage": run_usage(record),
        "judge": {column["title"]: column["score"] for column in measured.get("columns", [])},
        "model": registered(record) or None,
        "report": str(report) if report.is_file() else None,
        "damaged": record.damage(),
    }


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": stage["node"],
        "stage": stage.get("stage"),
        "status": stage["status"],
        "started": stage.get("started"),
        "ended": stage.get("ended"),
        "seconds": _seconds(stage),
        "key": stage.get("key"),
        "output": stage.get("output", {}).get("uri") or None,
        "metrics": stage.get("metrics", {}),
        "error": stage.get("error"),
    }


def _seconds(record: dict[str, Any]) -> float | None:
    return record["ended"] - record["started"] if {"started", "ended"} <= set(record) else None
