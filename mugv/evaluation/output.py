"""Files of an evaluation: metrics.json, samples/ (sheets, moving sheets, single clips), and the report.

metrics.json   {"metrics": flat name -> number, "table": column -> score with intervals, "judge_reason", "vae", "sampler", "size", ...}
samples/       <column>.png, <column>.webp, preview.webp, <column>-<k>.mp4
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mugv.evaluation.assess import Assessment
from mugv.evaluation.columns import Column
from mugv.evaluation.report import Fact, ReportColumn, Sheet
from mugv.media.encode import write_video
from mugv.media.sheet import draw_moving, draw_sheet
from mugv.precision import machine
from mugv.recipe.schema import Sampler

SHOWN, PAIRS = 12, 6
ABOUT = {
    "vae_reconstruction": "Each real clip and, after it, what the VAE makes of it.",
    "t2v_seen": "Captions of combinations that the training footage shows.",
    "t2v_held_out": "Captions of combinations that the training footage never shows.",
    "t2v": "Each real clip and, after it, a clip generated from its caption alone.",
    "i2v": "Each real clip and, after it, a clip generated from its first frame and its caption.",
}


def write_samples(assessment: Assessment, folder: Path, fps: float) -> list[Sheet]:
    """Sheets and clips of every column but the real one, whose clips stand beside the others, into folder/samples."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    shown = [c for c in assessment.columns if c.key != "real" and c.clips]
    sheets = [_write_column(column, folder, fps) for column in sorted(shown, key=lambda c: c.key == "vae_reconstruction")]
    text = [c for c in shown if c.key.startswith("t2v")]
    if text:
        draw_moving([s for c in text for s in c.strips(SHOWN // len(text))], folder / "samples/preview.webp", fps)
    return sheets


def _write_column(column: Column, folder: Path, fps: float) -> Sheet:
    strips = column.pairs(PAIRS) if column.beside else column.strips(SHOWN)
    still, moving = f"samples/{column.key}.png", f"samples/{column.key}.webp"
    draw_sheet(strips, folder / still)
    draw_moving(strips, folder / moving, fps)
    for k, strip in enumerate(s for s in strips if s.note != "real"):
        write_video(folder / f"samples/{column.key}-{k:02d}.mp4", strip.clip, fps)
    return Sheet(column.title, ABOUT[column.key], still, moving)


def write_metrics(
    assessment: Assessment, metrics: dict[str, float], folder: Path, sampler: Sampler, size: tuple[int, int], frames: int
) -> None:
    """metrics.json, which the register stage, the gate and the README's table read."""
    table = {c.key: {"title": c.title, **score.to_dict()} for c in assessment.columns if (score := c.score())}
    means = {name: asdict(mean) for name, mean in (("psnr", assessment.psnr), ("ssim", assessment.ssim)) if mean}
    vae = {name: {key: mean[key] for key in ("n", "value", "low", "high")} for name, mean in means.items()}
    tree = {
        "metrics": metrics,
        "table": table,
        "judge_reason": assessment.judge_reason,
        "real_split": assessment.split,
        "vae": vae,
        "sampler": sampler.model_dump(),
        "size": list(size),
        "frames": frames,
        "machine": machine(),
    }
    (folder / "metrics.json").write_text(json.dumps(tree, indent=1) + "\n")


def report_columns(assessment: Assessment) -> list[ReportColumn]:
    return [ReportColumn(c.key, c.title, score) for c in assessment.columns if (score := c.score())]


def facts(assessment: Assessment, metrics: dict[str, float], parameters: dict[str, int], clips: int) -> list[Fact]:
    """The tiles at the top of the report. `clips`: held-out clips of the validation loss."""
    held_out = "held-out" if assessment.split == "validation" else "training"
    found = [Fact(f"{name} parameters", _short(count), f"{count:,}") for name, count in parameters.items()]
    for name, mean, form, unit in (("PSNR", assessment.psnr, ".1f", " dB"), ("SSIM", assessment.ssim, ".3f", "")):
        if mean:
            detail = f"{mean.low:{form}} to {mean.high:{form}}, {mean.n} {held_out} clips"
            found.append(Fact(f"VAE {name}", f"{mean.value:{form}}{unit}", detail))
    if "validation_flow_loss" in metrics:
        found.append(Fact("validation flow loss", f"{metrics['validation_flow_loss']:.3f}", f"{clips} held-out clips"))
    return found


def clip_counts(clip_set: Path) -> dict[str, int]:
    """`kept: train`, `kept: validation`, and each reason of rejection -> clips, from a ClipSet's manifest."""
    columns: dict[str, list[Any]] = pq.read_table(clip_set / "manifest.parquet", columns=["status", "split", "reason"]).to_pydict()
    rows = zip(columns["status"], columns["split"], columns["reason"], strict=True)
    return dict(Counter(f"kept: {split}" if status == "kept" else reason for status, split, reason in rows))


def _short(count: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return str(count)
