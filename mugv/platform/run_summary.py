"""A whole run in a few numbers and a page of words: what MLflow's run of the pipeline, and Kubeflow's last task, show of it."""

from __future__ import annotations

from typing import Any

from mugv.platform.records import RunRecord, read_json, told
from mugv.redact import redact

RESULTS = ("evaluate", "register")
"""Stages whose numbers are the run's."""
LONGEST_NOTE = 4900


def numbers(record: RunRecord) -> dict[str, float]:
    """Seconds, stages by status, and what was measured of the model."""
    run, stages = record.read(), record.stages()
    found = {"seconds": round(run.get("ended", 0.0) - run.get("started", 0.0), 1), "stages": float(len(stages))}
    for status in ("hit", "failed", "killed", "interrupted"):
        if count := sum(stage["status"] == status for stage in stages):
            found[f"stages_{status}"] = float(count)
    for stage in stages:
        if stage["node"] in RESULTS:
            found |= stage.get("metrics", {})
    return found


def parameters(record: RunRecord) -> dict[str, str]:
    """What tells one run from another at a glance; the whole recipe is an artifact beside it."""
    recipe, run = read_json(record.folder / "recipe.json"), record.read()
    dit: dict[str, Any] = recipe.get("dit") or {}
    found = {"recipe": recipe.get("name"), "data": run.get("videos") or "sample footage", "seed": recipe.get("seed")}
    found |= {f"dit.{name}": dit.get(name) for name in ("layers", "hidden", "heads")}
    found["pretrain.stages"] = len(recipe.get("pretrain") or ())
    return {name: redact(str(value)) for name, value in found.items() if value is not None}


def note(record: RunRecord) -> str:
    """Markdown: how the run ended, its model, its stages."""
    run, values = record.read(), numbers(record)
    lines = [f"Run `{record.run}` of recipe **{run.get('name', '')}**: {run.get('status', '')} after {values['seconds']:.0f} s."]
    if run.get("error"):
        lines += ["", f"> {redact(run['error'])}"]
    if "version" in values:
        model = (read_json(record.folder / "recipe.json").get("register") or {}).get("model", "")
        standing = "champion" if values.get("champion") else "held back by the gate"
        lines += ["", f"Model [{model} version {values['version']:.0f}](#/models/{model}/versions/{values['version']:.0f}): {standing}."]
    lines += ["", "| stage | status | seconds |", "| --- | --- | ---: |"]
    for stage in record.stages():
        if told(stage.get("stage", ""), run.get("shards", 0)):
            seconds = max(0.0, stage.get("ended", 0.0) - stage.get("started", 0.0))
            lines.append(f"| {stage['node']} | {stage['status']} | {seconds:.1f} |")
    return "\n".join(lines)[:LONGEST_NOTE]
