"""The whole evaluation of a model in memory: which clips, which columns, which numbers. Files are written by mugv/evaluation/output.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mugv.evaluation.columns import (
    ClipGenerator,
    Clips,
    Column,
    RealClip,
    batch_size,
    generated_columns,
    judged,
    real_clips,
    sample_columns,
)
from mugv.evaluation.paired import Group
from mugv.evaluation.reconstruction import Mean, quality, reconstruct
from mugv.evaluation.scores import ROWS, score_clips
from mugv.media.shapes import parse_caption
from mugv.recipe.schema import Evaluate

SAMPLES = 12
"""Real clips that are sampled for when no judge counts: people look at them, and long videos fill the memory."""
Progress = Callable[[int, int, dict[str, float]], None]


class SizedGenerator(ClipGenerator, Protocol):
    """A generator that knows what its checkpoint was trained for."""

    size: tuple[int, int]
    frames: int


@dataclass(frozen=True)
class Assessment:
    """All columns with their clips. `judge_reason`: why nothing was judged, "" when it was. `split`: whose clips are the real ones,
    which `clip_ids` names."""

    columns: list[Column]
    psnr: Mean | None
    ssim: Mean | None
    judge_reason: str
    split: str
    clip_ids: list[str]

    def metrics(self) -> dict[str, float]:
        """Flat names: t2v_seen_colour, i2v_all, vae_psnr, ..."""
        found: dict[str, float] = {}
        for column in self.columns:
            score = column.score()
            if score:
                found |= {f"{column.key}_{name}": getattr(score, name).value for name in ROWS}
        found |= {f"vae_{name}": mean.value for name, mean in (("psnr", self.psnr), ("ssim", self.ssim)) if mean}
        return found

    def results(self, conditions: dict[str, str], judged: dict[str, str]) -> dict[str, Group]:
        """What was measured of each clip, for the comparison with another model. `judged`: further conditions of what was generated."""
        found = {
            c.key: Group(conditions | judged, self._prompts(c), score_clips(c.verdicts, c.combinations)) for c in self.columns if c.verdicts
        }
        means = {name: list(mean.values) for name, mean in (("psnr", self.psnr), ("ssim", self.ssim)) if mean}
        return found | ({"vae": Group(conditions, self.clip_ids, means)} if means else {})

    def _prompts(self, column: Column) -> list[str]:
        return column.captions if column.key.startswith("t2v") else self.clip_ids


def assess(clip_set: Clips, vae: Any, generator: SizedGenerator, settings: Evaluate, progress: Progress) -> Assessment:
    """Reconstruct, generate and judge at the generator's size. `vae` is a mugv.vae.VideoVAE."""
    split, reason = _source(clip_set, settings)
    size, frames = generator.size, generator.frames
    count = min(SAMPLES, settings.clips) if reason else settings.clips
    real = real_clips(clip_set, split, count, size, frames, parsable_only=not reason)
    generated = 2 * len(real) if reason else 2 * settings.clips + len(real)
    tick = _Counter(len(real) + generated, progress)
    first = _reconstructed(vae, real, bool(reason), batch_size(size, frames), tick)
    if reason:
        made = sample_columns(generator, real, settings.sampler, size, frames, settings.seed, tick)
    else:
        made = generated_columns(generator, real, settings.clips, settings.sampler, size, frames, settings.seed, tick)
    psnr, ssim = quality([r.frames for r in real], first[-1].clips) or (None, None)
    return Assessment([*first, *made], psnr, ssim, reason, split, [r.clip_id for r in real])


def _source(clip_set: Clips, settings: Evaluate) -> tuple[str, str]:
    """(split of the real clips, why there is no judge's table or "")."""
    captions = [row.caption for row in clip_set.rows(split="validation")]
    split = "validation" if captions else "train"
    if settings.judge == "none":
        return split, "Nothing was judged: the recipe says evaluate.judge: none. The clips below are for people to look at."
    if not any(parse_caption(caption) for caption in captions):
        what = f"none of the {len(captions)} held-out captions names" if captions else "there are no held-out clips whose captions name"
        return split, (
            f"Nothing was judged: {what} one colour, one shape and one direction of the sample footage, "
            "which is all that the judge can check. The clips below are for people to look at."
        )
    return split, ""


def _reconstructed(vae: Any, real: list[RealClip], unjudged: bool, batch: int, tick: Callable[[int], None]) -> list[Column]:
    truth, captions = [r.frames for r in real], [r.caption for r in real]
    made = reconstruct(vae, truth, batch, tick)
    if unjudged:
        return [Column("vae_reconstruction", made, captions, [], [], truth)]
    asked = [r.combination for r in real if r.combination]
    return [judged("real", truth, asked, captions), judged("vae_reconstruction", made, asked, captions, truth)]


class _Counter:
    """Turns "n more clips are done" into the stage's progress line."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, clips: int) -> None:
        self.done += clips
        self.progress(self.done, self.total, {})
