"""The columns of the judge's table: where their clips come from, and what the judge says about them.

    real                  held-out clips as they are: checks the judge
    vae_reconstruction    the same clips, encoded and decoded by the VAE
    t2v_seen              generated from captions of combinations that the footage shows
    t2v_held_out          generated from captions of combinations that it never shows
    i2v                   generated from the first frame and the caption of the held-out clips

Without a judge the last four become samples for the held-out clips' own captions. The generator is passed in.
Clips are uint8 [T, H, W, 3] at the size that the checkpoint generates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mugv.evaluation.judge import Verdict, judge
from mugv.evaluation.prompts import cycle, evaluation_combinations, held_out_combinations
from mugv.evaluation.scores import Score, score_table
from mugv.generation.given import Given
from mugv.media.resize import resize_crop
from mugv.media.shapes import Combination, parse_caption
from mugv.media.sheet import Strip
from mugv.recipe.schema import Sampler

TITLES = {
    "real": "Real held-out clips",
    "vae_reconstruction": "VAE reconstructions",
    "t2v_seen": "T2V, combinations seen",
    "t2v_held_out": "T2V, combinations held out",
    "t2v": "Text to video",
    "i2v": "Image to video",
}
PIXELS_A_BATCH = 1 << 20
"""Frames x height x width of the clips that are generated or reconstructed at once, at most; one clip at least."""
Tick = Callable[[int], None]
"""Called with the number of clips that were just finished."""


class ClipGenerator(Protocol):
    """mugv.generation.Generator, as far as the evaluation needs it."""

    def generate(
        self,
        prompts: list[str],
        *,
        size: tuple[int, int] | None,
        frames: int | None,
        seeds: list[int],
        sampler: Sampler,
        given: Given,
    ) -> np.ndarray:
        """Clips uint8 [N, T, H, W, 3]."""
        ...


class Clips(Protocol):
    """mugv.dataset.clipset.ClipSet, as far as the evaluation needs it."""

    def rows(self, split: str | None = None) -> Sequence[Any]: ...

    def frames(self, clip_id: str) -> np.ndarray: ...


@dataclass(frozen=True)
class RealClip:
    """A clip of the clip set, resized; `combination`: what its caption asks for, None when it does not parse."""

    clip_id: str
    caption: str
    combination: Combination | None
    frames: np.ndarray


@dataclass(frozen=True)
class Column:
    """Clips of one kind and, when a judge looked at them, its verdicts. `beside`: the real clips that they belong to."""

    key: str
    clips: list[np.ndarray]
    captions: list[str]
    verdicts: list[Verdict]
    combinations: list[Combination]
    beside: list[np.ndarray]

    @property
    def title(self) -> str:
        return TITLES[self.key]

    def score(self) -> Score | None:
        return score_table(self.verdicts, self.combinations) if self.verdicts else None

    def strips(self, count: int) -> list[Strip]:
        """Evenly spaced clips of the column, not chosen by how they look."""
        return [self._strip(k) for k in _spread(len(self.clips), count)]

    def pairs(self, count: int) -> list[Strip]:
        """As `strips`, each after the real clip that it belongs to."""
        picked = _spread(len(self.clips), count)
        return [strip for k in picked for strip in (Strip(self.beside[k], self.captions[k], note="real"), self._strip(k))]

    def _strip(self, k: int) -> Strip:
        if not self.verdicts:
            return Strip(self.clips[k], self.captions[k])
        verdict = self.verdicts[k]
        marks = {name: None if getattr(verdict, name) is None else right for name, right in verdict.matches(self.combinations[k]).items()}
        return Strip(self.clips[k], self.captions[k], marks=marks)


def real_clips(clip_set: Clips, split: str, count: int, size: tuple[int, int], frames: int, parsable_only: bool) -> list[RealClip]:
    """Up to `count` clips of a split, evenly spaced, with `frames` frames at `size` (height, width)."""
    rows = [(row, parse_caption(row.caption)) for row in clip_set.rows(split=split)]
    if parsable_only:
        rows = [(row, combination) for row, combination in rows if combination]
    picked = [rows[k] for k in _spread(len(rows), count)]
    return [RealClip(row.clip_id, row.caption, c, resize_crop(clip_set.frames(row.clip_id)[:frames], *size)) for row, c in picked]


def judged(
    key: str,
    clips: Sequence[np.ndarray],
    combinations: Sequence[Combination],
    captions: Sequence[str] | None = None,
    beside: Sequence[np.ndarray] = (),
) -> Column:
    """A column with the judge's verdict on each clip against what was asked for; captions default to the first template."""
    words = [c.caption() for c in combinations] if captions is None else list(captions)
    return Column(key, list(clips), words, [judge(clip) for clip in clips], list(combinations), list(beside))


def generate(
    generator: ClipGenerator,
    prompts: Sequence[str],
    sampler: Sampler,
    size: tuple[int, int],
    frames: int,
    seed: int,
    tick: Tick,
    first_frames: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """One clip a prompt, in batches; clip k has the seed `seed + k`, so the batch size does not change the clips."""
    made: list[np.ndarray] = []
    batch = batch_size(size, frames)
    for start in range(0, len(prompts), batch):
        part = slice(start, min(start + batch, len(prompts)))
        made += list(
            generator.generate(
                list(prompts[part]),
                size=size,
                frames=frames,
                seeds=[seed + k for k in range(part.start, part.stop)],
                sampler=sampler,
                given=Given() if first_frames is None else Given(first=np.stack(first_frames[part])[:, None]),
            )
        )
        tick(part.stop - part.start)
    return made


def generated_columns(
    generator: ClipGenerator,
    real: Sequence[RealClip],
    clips: int,
    sampler: Sampler,
    size: tuple[int, int],
    frames: int,
    seed: int,
    tick: Tick,
) -> list[Column]:
    """T2V of seen and of held-out combinations, and I2V from the real clips, judged. Seeds differ between the columns."""
    columns = []
    for k, (key, group) in enumerate((("t2v_seen", evaluation_combinations()), ("t2v_held_out", held_out_combinations()))):
        asked = cycle(group, clips)
        made = generate(generator, [c.caption() for c in asked], sampler, size, frames, seed + k * 1_000_000, tick)
        columns.append(judged(key, made, asked))
    captions, truth = [r.caption for r in real], [r.frames for r in real]
    made = generate(generator, captions, sampler, size, frames, seed + 2_000_000, tick, [clip[0] for clip in truth])
    columns.append(judged("i2v", made, [r.combination for r in real if r.combination], captions, truth))
    return columns


def sample_columns(
    generator: ClipGenerator, real: Sequence[RealClip], sampler: Sampler, size: tuple[int, int], frames: int, seed: int, tick: Tick
) -> list[Column]:
    """Without a judge: T2V and I2V for the real clips' captions, beside the real clips."""
    captions, truth = [r.caption for r in real], [r.frames for r in real]
    text = generate(generator, captions, sampler, size, frames, seed, tick)
    image = generate(generator, captions, sampler, size, frames, seed + 2_000_000, tick, [clip[0] for clip in truth])
    return [Column("t2v", text, captions, [], [], truth), Column("i2v", image, captions, [], [], truth)]


def batch_size(size: tuple[int, int], frames: int) -> int:
    return max(1, min(24, PIXELS_A_BATCH // (frames * size[0] * size[1])))


def _spread(n: int, count: int) -> list[int]:
    """`count` indices evenly spaced over range(n), all of them when n is smaller. Each is one further into its part, since prompts
    repeat with a period that may divide the parts' length."""
    if n <= count:
        return list(range(n))
    return [k * n // count + k % max(1, n // count) for k in range(count)]
