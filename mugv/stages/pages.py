"""What people see of a stage: a page in its output, and Kubeflow's artifacts of its metrics, page and labels.

add_pages      stage is done, nothing published yet    -> report.html, labels.json in its output
show           output is published, or was found       -> Output[Metrics], Output[HTML], Output[ClassificationMetrics] of its KFP task
No cache key depends on this module: another look makes nothing anew.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mugv.errors import StoreError
from mugv.platform.records import write_json

if TYPE_CHECKING:
    from mugv.evaluation.report import Curve
    from mugv.stages.base import StageContext
    from mugv.stages.environment import RunEnvironment
    from mugv.store import Ref, Store

logger = logging.getLogger(__name__)
REPORT, LABELS, SHEET = "report.html", "labels.json", "sheet.png"
LARGEST_PAGE = 8 << 20
"""Bytes; Kubeflow's page of a run loads a task's HTML whole."""
SHOWN_CLIPS = 6
CURVES = 9
NO_CURVES = frozenset({"step", "time", "seconds", "skipped", "model_tflops"})
"""Of the clock, not of the training: a page says the same of the same training, however fast it was."""


def add_pages(ctx: StageContext) -> None:
    """Write the pages of a stage beside its output. One that cannot be made is told, and costs the stage nothing."""
    stage = next((name for name in _PAGES if ctx.node == name or ctx.node.startswith(f"{name}-")), "")
    if not stage:
        return
    try:
        _PAGES[stage](ctx)
    except Exception as error:  # whatever it is, hours of training are worth more than their page
        logger.warning("%s: its page is left out (%s: %s)", ctx.node, type(error).__name__, error)


def show(pages: dict[str, Any], stage: str, metrics: dict[str, float], ref: Ref, environment: RunEnvironment) -> None:
    """Fill a task's KFP artifacts `metrics`, `report` and `labels`, those of them that it has."""
    if "metrics" in pages:
        numbers = {name: value for name, value in metrics.items() if math.isfinite(value)}
        pages["metrics"].metadata.update(numbers)
        write_json(Path(pages["metrics"].path), numbers, lasting=False)
    if not ref.digest or not {"report", "labels"} & set(pages):
        return
    store = environment.open_store()
    if "report" in pages:
        _copy(store, f"{stage}/{ref.key}/{REPORT}", Path(pages["report"].path))
    if "labels" in pages:
        path = Path(pages["labels"].path)
        if _copy(store, f"{stage}/{ref.key}/{LABELS}", path):
            found = json.loads(path.read_bytes())
            pages["labels"].log_confusion_matrix(found["categories"], found["matrix"])


def _copy(store: Store, name: str, path: Path) -> bool:
    """Bring one file of an output; outputs of before there were pages have none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.get_file(name, path)
    except StoreError as error:
        logger.info("no page to show: %s", error)
        return False
    if path.stat().st_size > LARGEST_PAGE:
        path.write_text(f"<p>This page is too large to be shown here: {path.stat().st_size >> 20} MiB. It lies at {store.uri}/{name}</p>")
    return True


def _training(ctx: StageContext) -> None:
    from mugv.stages.page import Page, render

    settings = _stage_settings(ctx)
    facts: dict[str, str] = {name: str(settings[name]) for name in ("method", "steps", "batch", "size", "frames") if name in settings}
    facts["learning rate"] = f"{settings['optimizer']['learning_rate']:g}"
    curves = _curves(ctx)
    facts |= {f"{curve.metric} at the end": f"{_tail(curve.values):.4g}" for curve in curves if "loss" in curve.metric}
    page = Page(f"{ctx.recipe.name}: {ctx.node}", "What this training stage was asked for, and how its loss went.", facts, curves=curves)
    (ctx.out / REPORT).write_text(render(page))


def _stage_settings(ctx: StageContext) -> dict[str, Any]:
    tree = ctx.recipe.model_dump(mode="json", by_alias=True)
    if ctx.node == "sft":
        return dict(tree["sft"])
    stages = tree["pretrain"] if ctx.node.startswith("pretrain") else tree["align"]["rounds"]
    return dict(stages[ctx.index])


def _curves(ctx: StageContext) -> list[Curve]:
    """Everything that a training stage wrote down of its steps, the losses first."""
    from mugv.evaluation.report import Curve

    file = ctx.out / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    names = dict.fromkeys(
        name for line in lines for name, value in line.items() if name not in NO_CURVES and isinstance(value, (int, float))
    )
    shown = sorted(names, key=lambda name: (name != "loss", "loss" not in name))[:CURVES]
    points = {name: [(line["step"], line[name]) for line in lines if name in line] for name in shown}
    return [Curve(ctx.node, name, [step for step, _ in found], [value for _, value in found]) for name, found in points.items()]


def _tail(values: list[float], last: int = 20) -> float:
    return sum(values[-last:]) / max(1, len(values[-last:]))


def _vae(ctx: StageContext) -> None:
    """Held-out clips beside what the VAE makes of them, with what it lost of each."""
    from mugv.evaluation.reconstruction import quality, reconstruct
    from mugv.media.sheet import Strip, draw_sheet
    from mugv.stages.page import Page, Table, embedded, render
    from mugv.vae import load_vae

    vae, (names, real) = load_vae(ctx.out), _held_out(ctx)
    made = reconstruct(vae, real, ctx.recipe.encode.batch, lambda count: None)
    measured = quality(real, made)
    assert measured is not None
    psnr, ssim = measured
    rows: list[list[str | int]] = [
        [name, f"{p:.2f}", f"{s:.4f}", f"{_difference(a, b):.2f}"]
        for name, p, s, a, b in zip(names, psnr.values, ssim.values, real, made, strict=True)
    ]
    notes = [f"{p:.1f} dB" for p in psnr.values]
    strips = [s for n, note, a, b in zip(names, notes, real, made, strict=True) for s in (Strip(a, n, "real"), Strip(b, "", note))]
    draw_sheet(strips, sheet := ctx.work / SHEET)
    parameters = sum(p.numel() for p in vae.parameters())
    facts = {"PSNR": f"{psnr.value:.1f} dB", "SSIM": f"{ssim.value:.3f}", "parameters": f"{parameters:,}"}
    text = "Left the clip as it is, right what the VAE makes of it."
    table = Table("What is lost", "Of each clip shown.", ["clip", "PSNR (dB)", "SSIM", "mean difference (of 255)"], rows)
    page = Page(
        f"{ctx.recipe.name}: VideoVAE",
        f"{len(real)} clips {'of the validation split' if _split(ctx) == 'validation' else 'of the training split'}, encoded and decoded.",
        facts,
        [("Reconstructions", text, embedded(sheet))],
        _curves(ctx),
        [table],
    )
    (ctx.out / REPORT).write_text(render(page))


def _difference(one: Any, other: Any) -> float:
    import numpy as np

    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


def _split(ctx: StageContext) -> str:
    from mugv.dataset.clipset import ClipSet

    return "validation" if ClipSet.open(ctx.inputs["clips"]).rows("validation") else "train"


def _held_out(ctx: StageContext) -> tuple[list[str], list[Any]]:
    """Names and frames of some clips, as the VAE takes them: 1 + 8k frames, sides of the last phase."""
    from mugv.dataset.clipset import ClipSet
    from mugv.media.resize import resize_crop

    clips = ClipSet.open(ctx.inputs["clips"])
    rows = clips.rows(_split(ctx))[:SHOWN_CLIPS]
    phases = ctx.recipe.vae.train.phases
    size = phases[-1].size if phases else min(min(r.height, r.width) for r in rows) // 16 * 16
    frames = [resize_crop(clips.frames(row.clip_id), size, size) for row in rows]
    return [row.caption or row.clip_id for row in rows], [clip[: 1 + (len(clip) - 1) // 8 * 8] for clip in frames]


def _candidates(ctx: StageContext) -> None:
    """What was asked for against what the judge sees, and some of the clips with the judge's marks."""
    from mugv.evaluation.judge import judge
    from mugv.media.shapes import parse_caption
    from mugv.media.sheet import Strip, draw_sheet
    from mugv.stages.page import Page, Table, embedded, render

    described = json.loads((ctx.out / "candidates.json").read_text())
    clips = _clips(ctx.out / "clips.tar", ctx.work, described["clips"])
    verdicts = [(text, parse_caption(text), judge(clip)) for text, clip in zip(described["prompts"], clips, strict=True)]
    judged = [(wanted, seen) for _, wanted, seen in verdicts if wanted is not None]
    marks: list[dict[str, bool | None]] = [dict(seen.matches(wanted)) if wanted else {} for _, wanted, seen in verdicts]
    strips = [
        Strip(clip, text, marks=mark) for clip, (text, _, _), mark in list(zip(clips, verdicts, marks, strict=True))[: 2 * SHOWN_CLIPS]
    ]
    pictures, tables = [], []
    if strips:
        draw_sheet(strips, sheet := ctx.work / SHEET)
        pictures = [("Candidates", "Some of the clips, with the judge's marks where the prompt tells what is right.", embedded(sheet))]
    facts = {"candidates": str(len(clips)), "prompts": str(len(set(described["prompts"])))}
    if judged:
        categories, matrix = confusion(judged)
        write_json(ctx.out / LABELS, {"categories": categories, "matrix": matrix})
        facts["all right"] = str(sum(all(seen.matches(wanted).values()) for wanted, seen in judged))
        rows: list[list[str | int]] = [[name, *row] for name, row in zip(categories, matrix, strict=True)]
        text = "A row is what the prompt asked for, a column what the judge sees in the clip."
        tables = [Table("Asked and seen", text, ["", *categories], rows, shaded=True)]
    text = "Clips that the generator made of prompts outside of the evaluation, for preference training."
    (ctx.out / REPORT).write_text(render(Page(f"{ctx.recipe.name}: candidates", text, facts, pictures, tables=tables)))


def confusion(judged: list[tuple[Any, Any]]) -> tuple[list[str], list[list[int]]]:
    """Categories of all attributes, and counts: asked for (row) and seen (column); the last category is `not sure`."""
    from mugv.media.shapes import COLOURS, DIRECTIONS, SHAPES

    categories = [*COLOURS, *SHAPES, *DIRECTIONS, "not sure"]
    place = {name: k for k, name in enumerate(categories)}
    matrix = [[0] * len(categories) for _ in categories]
    for wanted, seen in judged:
        for attribute in ("colour", "shape", "direction"):
            matrix[place[getattr(wanted, attribute)]][place[getattr(seen, attribute) or "not sure"]] += 1
    return categories, matrix


def _clips(archive: Path, scratch: Path, names: list[str]) -> list[Any]:
    """Frames of the clips of a tar, in the order of `names`."""
    import tarfile

    from mugv.media.decode import read_video

    found = []
    with tarfile.open(archive) as tar:
        for name in names:
            file = tar.extractfile(f"{name}.mp4")
            assert file is not None
            (scratch / "shown.mp4").write_bytes(file.read())
            found.append(read_video(scratch / "shown.mp4")[0])
    return found


def _register(ctx: StageContext) -> None:
    """The evaluation's page with the gate's decision: the sample sheets are in it."""
    from mugv.evaluation.report import GateDecision, redraw

    result = json.loads((ctx.out / "registered.json").read_text())
    gate = GateDecision(bool(result["champion"]), str(result["version"]), list(result["reasons"]))
    bars = dict(ctx.recipe.register_.gate.minimum)
    (ctx.out / REPORT).write_text(redraw(ctx.inputs["evaluate"], gate=gate, bars=bars))


_PAGES: dict[str, Callable[[StageContext], None]] = {
    "train_vae": _vae,
    "pretrain": _training,
    "sft": _training,
    "candidates": _candidates,
    "align": _training,
    "register": _register,
}
