"""Tables about a run: its stages with seconds and shares, what came out of it, and the judge's table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mugv.platform.records import RunRecord, made_by
from mugv.platform.registry import REASONS, Version, held_back
from mugv.stages.run_report import output, ran, registered, seconds

if TYPE_CHECKING:
    from rich.console import Console

KEY_METRICS = 4
TAKEN_OVER = ("sources_taken_over", "taken_over")
"""Shown when it is anything."""
SHOWN_FIRST = (
    "t2v_seen_all",
    "t2v_held_out_all",
    "i2v_all",
    "vae_psnr",
    "vae_ssim",
    "version",
    "champion",
    "kept",
    "frames_per_second",
    "decode_share",
    *TAKEN_OVER,
    "clips_train",
    "final_flow_loss",
)
"""Of the metrics of a stage those that tell most; the others follow by name."""


def print_stages(console: Console, record: RunRecord) -> None:
    """A row a stage: status, seconds (for a hit: of the run that made it), share of the total, some metrics."""
    from rich.table import Table

    state = record.folder.parents[1]
    rows = [(stage, stage if ran(stage) else made_by(state, stage.get("key", ""))) for stage in record.stages()]
    total = sum(seconds(made) for _, made in rows) or 1.0
    table = Table("stage", "status", "seconds", "share", "metrics", box=None, pad_edge=False)
    for column in (2, 3):
        table.columns[column].justify = "right"
    for stage, made in rows:
        spent = seconds(made)
        table.add_row(stage["node"], stage["status"], f"{spent:.1f}", f"{spent / total:.0%}", _metrics(stage, made))
    console.print(table)
    mine = sum(seconds(stage) for stage, _ in rows)
    run = record.read()
    if {"started", "ended"} <= set(run):
        console.print(f"stages {total:.0f} s when all run; this run {run['ended'] - run['started']:.0f} s, {mine:.0f} s of it in stages")


def print_result(console: Console, record: RunRecord) -> None:
    """Where the report is, the model's version and the gate's decision; last, how to use the model."""
    report = record.folder / "report.html"
    if report.is_file():
        console.print(f"report {report}", markup=False, soft_wrap=True)
    result = registered(record)
    if not result:
        return
    champion, reasons = result["champion"], result["reasons"]
    if champion:
        console.print(f"model {result['uri']} is champion: {'; '.join(reasons)}", markup=False, soft_wrap=True)
        console.print('mugv generate "a red circle moves left" -o out.mp4', markup=False, soft_wrap=True)
        return
    before = result["previous_champion"]
    standing = f"champion stays version {before}" if before else "there is no champion"
    version = Version(result["model"], result["version"], "", {REASONS: "; ".join(reasons)}, "")
    console.print(f"model {result['uri']} is registered and {standing}: {held_back(version)}", markup=False, soft_wrap=True)


def print_judge(console: Console, record: RunRecord) -> None:
    """The judge's table with 95% intervals, or why there is none."""
    folder = output(record, "evaluate")
    if folder is None:
        return
    report = json.loads((folder / "report.json").read_text())
    for fact in report["facts"]:
        console.print(f"{fact['name']}: {fact['value']}", markup=False)
    if not report["columns"]:
        console.print(f"no judge's table: {report['judge_reason'] or 'not asked for'}", markup=False)
        return
    _print_columns(console, report["columns"])


def _print_columns(console: Console, columns: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from mugv.evaluation.scores import ROWS

    table = Table("judge, share right [95% interval]", "clips", *ROWS.values(), box=None, pad_edge=False)
    for column in columns:
        score = column["score"]
        cells = [f"{r['value']:.2f} ({r['low']:.2f}-{r['high']:.2f})" for r in (score[n] for n in ROWS)]
        table.add_row(column["title"], str(score["n"]), *cells)
    console.print(table)


def _metrics(stage: dict[str, Any], made: dict[str, Any]) -> str:
    if stage.get("error"):
        return str(stage["error"])[:100]
    metrics = stage.get("metrics") or made.get("metrics", {})
    told = [name for name, value in metrics.items() if value or name not in TAKEN_OVER]
    names = sorted(told, key=lambda name: (SHOWN_FIRST.index(name) if name in SHOWN_FIRST else len(SHOWN_FIRST), name))
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in names[:KEY_METRICS])
