"""Files that are generated and committed: written on demand, compared in `make check`, so that none goes stale."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def stale(files: Mapping[str, str]) -> list[str]:
    """Paths whose file is absent or has another text. `files`: path below the repository -> what it must hold."""
    return [path for path, text in files.items() if not (ROOT / path).is_file() or (ROOT / path).read_text() != text]


def write_or_check(files: Mapping[str, str], module: str, arguments: list[str] | None = None) -> int:
    """Command line of a generator: writes its files, or with --check names the stale ones; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    if parser.parse_args(arguments).check:
        behind = stale(files)
        if behind:
            print(f"stale: {', '.join(behind)}; run python -m {module}")
        return 1 if behind else 0
    for path, text in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
    return 0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table and the empty line after it; nothing when there are no rows."""
    if not rows:
        return []
    return [_row(head), _row(["---"] * len(head)), *(_row([cell.replace("|", "\\|") for cell in row]) for row in rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
