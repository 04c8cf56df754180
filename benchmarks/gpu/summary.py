"""Markdown for docs/benchmarks/ of what run.sh's parts have written so far: `python -m benchmarks.gpu.summary FOLDER` (results.jsonl to
summary.md)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

Line = dict[str, Any]
TITLES = {
    "tests": "tests/gpu",
    "dit": "DiT blocks, forward and backward, a row an attention back end",
    "vae": "VideoVAE, bf16, random weights",
    "memory": "Memory of a step of blocks: the model against the measured peak",
    "sampler": "Sampling: time outside the network",
}
WIDE = 8
FACTS = ("date", "card", "memory", "driver", "torch", "python", "commit", "command")


def summary(lines: list[Line]) -> str:
    """One section for each kind of part; its figures and how its parts ended."""
    facts = next((line["values"] for line in lines if line["part"] == "machine"), {})
    head = ["# GPU figures", "", *_table([{"": name, "value": facts.get(name, "unknown")} for name in FACTS])]
    parts = [section for kind, title in TITLES.items() if (section := _section(title, [x for x in lines if _kind(x) == kind]))]
    return "\n".join([*head, *(row for section in parts for row in ["", *section])]) + "\n"


def _kind(line: Line) -> str:
    return str(line["part"]).split("-")[0]


def _section(title: str, lines: list[Line]) -> list[str]:
    if not lines:
        return []
    ended = [f"{x['part']}: {x['status']} after {x['seconds']} of {x['limit']} s" for x in lines if "status" in x]
    cases = [x for x in lines if "values" in x]
    outcomes = Counter(x["values"]["outcome"] for x in cases if "outcome" in x["values"])
    counted = [", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())] if outcomes else []
    rows = [{"case": x["case"], **x["values"]} for x in cases if x["values"].get("outcome") != "passed"]
    return [f"## {title}", "", "; ".join([*ended, *counted]) or "not ended", *(["", *_table(rows)] if rows else [])]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Columns in the order in which they first come; a row lacks what does not apply to it. A wide table is turned on its side."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name, "")) for name in columns] for row in rows]
    if len(columns) > WIDE:
        columns, *cells = ([name, *column] for name, column in zip(columns, zip(*cells, strict=True), strict=True))
    return [_row(columns), _row(["---"] * len(columns)), *map(_row, cells)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def main() -> None:
    folder = Path(sys.argv[1])
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    (folder / "summary.md").write_text(summary(lines))


if __name__ == "__main__":
    main()
