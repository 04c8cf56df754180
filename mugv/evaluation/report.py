"""The HTML report of a run: one file with everything embedded, made from plain data that can be kept and drawn again.

The evaluate stage writes `report.json` and `samples/` beside `report.html`. What is known only after it (the gate's
decision, the seconds of every stage) is added by `redraw`.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from mugv.evaluation import charts
from mugv.evaluation.scores import CHANCE, ROWS, Score

CURVES_A_STAGE = 3
BOOKKEEPING = frozenset({"step", "time", "seconds", "learning_rate", "gradient_norm"})
MEDIA = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}


@dataclass(frozen=True)
class ReportColumn:
    """A column of the judge's table."""

    key: str
    title: str
    score: Score


@dataclass(frozen=True)
class Fact:
    """A number with its name; `detail` says how it was measured."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Curve:
    """A training metric over steps."""

    stage: str
    metric: str
    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Sheet:
    """Clips to look at; `still` and `moving` are names in ReportData.pictures."""

    title: str
    text: str
    still: str
    moving: str = ""


@dataclass(frozen=True)
class StageTime:
    name: str
    seconds: float
    cached: bool = False
    """The output was there already; the seconds are those of the run that made it."""


@dataclass(frozen=True)
class Origin:
    """An input of the evaluation."""

    name: str
    uri: str
    key: str
    digest: str


@dataclass(frozen=True)
class GateDecision:
    champion: bool
    version: str
    reasons: list[str]


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows. `judge_reason`: why there is no judge's table, "" when there is one."""

    title: str
    recipe_name: str
    recipe_digest: str
    run_id: str = ""
    facts: list[Fact] = field(default_factory=list)
    columns: list[ReportColumn] = field(default_factory=list)
    judge_reason: str = ""
    bars: dict[str, float] = field(default_factory=dict)
    """Metric name (`t2v_seen_colour`) -> the recipe's threshold."""
    curves: list[Curve] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    clips: dict[str, int] = field(default_factory=dict)
    """Split or reason of rejection -> clips; kept ones as `kept: <split>`."""
    stages: list[StageTime] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    gate: GateDecision | None = None
    pictures: dict[str, bytes] = field(default_factory=dict, repr=False)


def render_report(data: ReportData) -> str:
    """One self-contained HTML page; the same data give the same text. Captions and paths are escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = resources.files("mugv.evaluation").joinpath("report.html.j2").read_text()
    return environment.from_string(template).render(
        data=data,
        table=_table(data),
        attributes=list(ROWS),
        chance=CHANCE,
        charts=[(c, charts.line_chart(c.steps, c.values, c.metric)) for c in data.curves],
        images={name: _data_uri(name, content) for name, content in data.pictures.items()},
        kept={k.removeprefix("kept: "): n for k, n in data.clips.items() if k.startswith("kept: ")},
        rejected=_largest_first({k: n for k, n in data.clips.items() if not k.startswith("kept: ")}),
        total_seconds=sum(s.seconds for s in data.stages),
        duration=duration,
    )


def save_report(data: ReportData, folder: Path) -> None:
    """Write report.html and report.json; the pictures lie beside them under their names already."""
    tree = {k: v for k, v in asdict(replace(data, pictures={})).items() if k != "pictures"}
    (folder / "report.json").write_text(json.dumps(tree, indent=1))
    (folder / "report.html").write_text(render_report(data))


def load_report(folder: Path) -> ReportData:
    """What save_report wrote, with the pictures read again."""
    tree: dict[str, Any] = json.loads((folder / "report.json").read_text())
    # Reports of before they were the same for the same evaluation name their day.
    tree.pop("created", None)
    parts = {"facts": Fact, "curves": Curve, "sheets": Sheet, "stages": StageTime, "origins": Origin}
    lists: dict[str, Any] = {name: [kind(**item) for item in tree.pop(name)] for name, kind in parts.items()}
    columns = [ReportColumn(c["key"], c["title"], Score.from_dict(c["score"])) for c in tree.pop("columns")]
    gate = GateDecision(**tree.pop("gate")) if tree["gate"] else tree.pop("gate")
    names = {name for sheet in lists["sheets"] for name in (sheet.still, sheet.moving) if name}
    return ReportData(**tree, **lists, columns=columns, gate=gate, pictures={name: (folder / name).read_bytes() for name in sorted(names)})


def redraw(
    folder: Path,
    run_id: str | None = None,
    stages: list[StageTime] | None = None,
    gate: GateDecision | None = None,
    curves: list[Curve] | None = None,
    origins: list[Origin] | None = None,
    bars: dict[str, float] | None = None,
) -> str:
    """The report of an evaluate output with what later stages know; what is not given stays as it was."""
    given: dict[str, Any] = {"run_id": run_id, "stages": stages, "gate": gate, "curves": curves, "origins": origins, "bars": bars}
    return render_report(replace(load_report(folder), **{k: v for k, v in given.items() if v is not None}))


def read_curves(stage: str, file: Path) -> list[Curve]:
    """The curves of a metrics.jsonl that people want to see: each loss, else whatever it holds; [] when there is no file."""
    if not file.is_file():
        return []
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    names = list(dict.fromkeys(n for line in lines for n, v in line.items() if n not in BOOKKEEPING and isinstance(v, (int, float))))
    shown = [n for n in names if n == "loss"] or [n for n in names if "loss" in n][:CURVES_A_STAGE] or names[:1]
    curves = []
    for name in shown:
        points = [(line["step"], line[name]) for line in lines if name in line]
        curves.append(Curve(stage, name, [step for step, _ in points], [value for _, value in points]))
    return curves


def duration(seconds: float) -> str:
    """45 s, 3 min 5 s, 1 h 2 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _table(data: ReportData) -> list[dict[str, Any]]:
    """A row an attribute: its name, chance, and a cell a column."""
    return [
        {"name": name, "title": title, "chance": CHANCE[name], "cells": [_cell(data, column, name) for column in data.columns]}
        for name, title in ROWS.items()
    ]


def _cell(data: ReportData, column: ReportColumn, name: str) -> dict[str, Any]:
    rate, bar = getattr(column.score, name), data.bars.get(f"{column.key}_{name}")
    drawing = charts.interval_bar(rate.value, rate.low, rate.high, bar, CHANCE[name])
    return {"rate": rate, "bar": bar, "passed": bar is None or rate.value >= bar, "drawing": drawing}


def _largest_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _data_uri(name: str, content: bytes) -> str:
    return f"data:{MEDIA[Path(name).suffix]};base64,{base64.b64encode(content).decode()}"
