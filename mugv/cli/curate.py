"""`mugv curate`: raw video to a clip set with a data card and a report; what each threshold does; thresholds against human labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mugv.cli.common import (
    FOOTAGE_RECIPE,
    CaptionsOption,
    RecipeOption,
    SetOption,
    StateOption,
    VideosOption,
    check_output,
    existing_state,
    open_console,
    read_recipe,
    state_folder,
)
from mugv.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mugv.curation.calibrate import Calibrated, Quality
    from mugv.curation.rows import ClipRow
    from mugv.platform.records import RunRecord
    from mugv.recipe import Recipe
    from mugv.recipe.curation import Curation
    from mugv.stages.roots import Roots

NODE = "curate"


def curate(
    clip_set: Annotated[
        Path | None, typer.Argument(help="With --explain, --calibrate: a clip set (default: the newest of --state).")
    ] = None,
    videos: VideosOption = None,
    captions: CaptionsOption = None,
    recipe: RecipeOption = None,
    changes: SetOption = None,
    state: StateOption = None,
    out: Annotated[Path | None, typer.Option(help="Copy the clip set to this new folder.")] = None,
    score_only: Annotated[bool, typer.Option("--score-only", help="Measure every score, drop nothing, keep no clips.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="What each threshold rejects, and the scores' quantiles.")] = False,
    calibrate: Annotated[Path | None, typer.Option(metavar="LABELS", help="CSV clip_id,label: filters against human labels.")] = None,
    clips: Annotated[Path | None, typer.Option(help="The same as CLIP_SET.")] = None,
) -> None:
    """Raw video to clips: single-shot, filtered, captioned, without duplicates. With --explain or --calibrate: thresholds on a clip set."""
    given = _one(clip_set, clips)
    if explain or calibrate:
        _look(given, recipe, changes, state, explain, calibrate)
        return
    if given:
        raise UserError(f"{given}: a clip set goes with --explain or --calibrate; raw footage is given with --videos")
    more = [*(changes or []), "curation.score_only=true"] if score_only else changes
    _run(read_recipe(recipe, more, videos, captions), state_folder(state), out)


def _one(first: Path | None, second: Path | None) -> Path | None:
    if first and second:
        raise UserError(f"{first} and --clips {second}: give one clip set")
    return first or second


def _run(recipe: Recipe, state: Path, out: Path | None) -> None:
    from mugv.cli.run import Goal, run_locked
    from mugv.platform.lock import state_lock

    if out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: exists already; give a new folder")
    if out:
        check_output("--out", out)
    with state_lock(state):
        code = run_locked(recipe, state, Goal(NODE, _pipeline, lambda record, console: _finish(record, console, out)))
    raise typer.Exit(code)


def _pipeline(recipe: Recipe, roots: Roots) -> Any:
    from pipelines.data import build_pipeline

    return build_pipeline(recipe, roots)


def _finish(record: RunRecord, console: Console, out: Path | None) -> None:
    from mugv.stages.run_report import output

    folder = output(record, NODE)
    assert folder is not None
    if out:
        shutil.copytree(folder, out, dirs_exist_ok=True)
        folder = out
    card = json.loads((folder / "card.json").read_text())
    for line in summary(card):
        console.print(line, markup=False)
    console.print(f"report {folder / 'report.html'}\nclip set {folder}", markup=False, soft_wrap=True)


def summary(card: dict[str, Any]) -> list[str]:
    """What came out, in a line or three."""
    lines = []
    if card["scored"]:
        marked = {reason: count for reason, count in card["scored"].items() if reason != "none"}
        lines.append(f"scored {sum(card['scored'].values())} clips, nothing dropped; thresholds would reject {sum(marked.values())}")
        lines += [f"  {_counts(marked)}"] if marked else []
    else:
        lines.append(f"kept {sum(card['clips'].values())} clips, {card['seconds'] / 60:.1f} min ({_counts(card['clips'])})")
    if card["rejected"]:
        lines.append(f"rejected {sum(card['rejected'].values())}: {_counts(card['rejected'])}")
    return [*lines, *([card["note"]] if card["note"] else [])]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _look(
    given: Path | None, recipe: Path | None, changes: list[str] | None, state: Path | None, explain: bool, labels: Path | None
) -> None:
    from mugv.dataset.clipset import ClipSet

    folder = given or _newest(state)
    opened = ClipSet.open(folder)
    rows, settings = opened.rows(status=None), _settings(opened.card, recipe, changes)
    console = open_console()
    console.print(f"clip set {folder}", markup=False, soft_wrap=True)
    if explain:
        _print_explained(console, rows, settings)
    if labels:
        _print_calibrated(console, rows, settings, labels)


def _newest(state: Path | None) -> Path:
    """The clip set of the newest run that made or found one."""
    from mugv.platform.records import all_runs
    from mugv.stages.run_report import output

    folder = existing_state(state)
    for record in all_runs(folder):
        found = output(record, NODE) if record.stage(NODE) else None
        if found:
            return found
    raise UserError(f"state folder {folder}: no run has made a clip set yet; give one, or run `mugv curate --videos WHERE`")


def _settings(card: dict[str, Any], recipe: Path | None, changes: list[str] | None) -> Curation:
    """The recipe's when one is named, else those that the clip set was made with; `--set curation.x.y=...` on top."""
    from mugv.recipe import load_recipe

    made_with = [] if recipe or "settings" not in card else [("curation", card["settings"])]
    return load_recipe(recipe or FOOTAGE_RECIPE, [*made_with, *(changes or [])]).curation


def _print_explained(console: Console, rows: Sequence[ClipRow], settings: Curation) -> None:
    from mugv.curation.explain import QUANTILES, explain, judged, other_reasons, would_keep

    names = ("score", "minimum", "maximum", "under", "over", "alone", *(f"{q}%" for q in QUANTILES))
    lines = []
    for line in explain(rows, settings):
        under, over = (str(n) if limit is not None else "" for n, limit in zip(line.rejects, (line.minimum, line.maximum), strict=True))
        alone = str(line.alone) if under or over else ""
        lines.append([line.score, _number(line.minimum), _number(line.maximum), under, over, alone, *map(_number, line.quantiles)])
    console.print(_table(names, lines, left=1))
    clips = len(judged(rows))
    console.print(f"thresholds keep {would_keep(rows, settings)} of {clips} clips; alone: would be kept without that threshold")
    others = other_reasons(rows)
    if others:
        console.print(f"other reasons: {_counts(others)}", markup=False)


def _print_calibrated(console: Console, rows: Sequence[ClipRow], settings: Curation, path: Path) -> None:
    from mugv.curation.calibrate import as_yaml, calibrate, overall, read_labels

    labels = read_labels(path, {row.clip_id: row for row in rows})
    found = calibrate(rows, labels, settings)
    names = ("reason", "limit", "precision", "recall", "rejects", "labelled", "proposed limit", "precision", "recall")
    console.print(_table(names, [_calibrated_cells(line) for line in found], left=2))
    whole = overall(rows, labels, settings)
    console.print(f"any reason, {len(labels)} labels: precision {_share(whole.precision)}, recall {_share(whole.recall)}")
    text = as_yaml(found)
    console.print(f"proposed, best F1 on these labels:\n{text}" if text else "the labels propose no threshold", markup=False)


def _calibrated_cells(line: Calibrated) -> list[str]:
    def limit(value: float | None) -> str:
        return "" if value is None else f"{line.score} {'>=' if line.side == 'minimum' else '<='} {_number(value)}"

    def shares(quality: Quality | None) -> list[str]:
        return ["", ""] if quality is None else [_share(quality.precision), _share(quality.recall)]

    now = line.now
    counts = [str(now.hits + now.alarms), str(now.hits + now.misses)]
    return [line.reason, limit(line.limit), *shares(now), *counts, limit(line.proposed), *shares(line.then)]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(names: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> Any:
    from rich.table import Table

    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns[left:]:
        column.justify = "right"
    for line in lines:
        table.add_row(*line)
    return table
