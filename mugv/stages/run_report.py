"""The page of a whole run: the evaluation's, with the seconds of every stage and the gate's decision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mugv.platform.records import RunRecord, made_by
from mugv.store import Ref, open_store


def write_report(record: RunRecord) -> Path | None:
    """`runs/<run>/report.html`: the evaluation's page with the seconds of every stage and the gate's decision."""
    folder = output(record, "evaluate")
    if folder is None:
        return None
    from mugv.evaluation.report import GateDecision, StageTime, load_report, render_report

    state = record.folder.parents[1]
    made = [(s, s if ran(s) else made_by(state, s.get("key", ""))) for s in record.stages()]
    times = [StageTime(s["node"], seconds(m), not ran(s)) for s, m in made]
    result = registered(record)
    gate = GateDecision(bool(result["champion"]), str(result["version"]), list(result["reasons"])) if result else None
    page = record.folder / "report.html"
    # The thresholds are not in the evaluation's key, so its own page may show those of an earlier run.
    bars = json.loads((record.folder / "recipe.json").read_text())["register"]["gate"]["minimum"]
    page.write_text(render_report(replace(load_report(folder), run_id=record.run, stages=times, gate=gate, bars=bars)))
    return page


def registered(record: RunRecord) -> dict[str, Any]:
    """registered.json of a run; {} when it registered nothing."""
    folder = output(record, "register")
    return json.loads((folder / "registered.json").read_text()) if folder else {}


def output(record: RunRecord, node: str) -> Path | None:
    """Local folder of what a stage of this run published or found; None when it did neither."""
    ref: dict[str, str] = next((stage.get("output", {}) for stage in record.stages() if stage["node"] == node), {})
    place = record.read().get("store", "")
    if not ref.get("digest") or not place or set(ref) != {"uri", "key", "digest"}:
        return None
    return open_store(place, record.folder.parents[1] / "cache").fetch(Ref(**ref))


def ran(stage: dict[str, Any]) -> bool:
    """Whether a stage worked in its run; else its output was there."""
    return stage.get("status") not in ("hit", "not needed")


def seconds(stage: dict[str, Any]) -> float:
    """Of a stage's record; 0 for an empty one."""
    return max(0.0, float(stage.get("ended", stage.get("started", 0.0))) - float(stage.get("started", 0.0))) if stage else 0.0
