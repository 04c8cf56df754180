"""The scores of a recipe, and a clip to all of its values."""

from __future__ import annotations

from collections.abc import Sequence

from mugv.curation.scores.base import Box, Clip, Once, Score
from mugv.curation.scores.blockiness import Blockiness
from mugv.curation.scores.borders import border_share, find_borders
from mugv.curation.scores.facts import Aspect, BitsPerPixel, SourceFps, SourceSeconds
from mugv.curation.scores.light import Contrast, Exposure, Saturation
from mugv.curation.scores.looks import aesthetic_of
from mugv.curation.scores.motion import Motion, Pairs, SpeedChange
from mugv.curation.scores.sharpness import Sharpness
from mugv.curation.scores.steadiness import Freeze, Shake
from mugv.curation.scores.text import text_of
from mugv.media.picture import Want
from mugv.recipe.curation import Curation


def build_scores(settings: Curation) -> list[Score]:
    """Every score that the recipe measures, cheap ones first; build them once a process.

    Raises UserError in one line when weights that the recipe names are missing.
    """
    pairs = Pairs(settings.motion)
    flows = Once(pairs)
    scores: list[Score] = [SourceSeconds(), SourceFps(), BitsPerPixel(), Aspect(), Exposure(), Contrast(), Saturation(), Freeze(), Shake()]
    scores += [Motion(flows, pairs.input), SpeedChange(flows, pairs.input), Sharpness(settings.sharpness), Blockiness()]
    dear: tuple[Score | None, ...] = (text_of(settings.text), aesthetic_of(settings.aesthetic))
    return [*scores, *(score for score in dear if score is not None)]


def measure(clip: Clip, scores: Sequence[Score], settings: Curation) -> tuple[Clip, Box | None, dict[str, float | None]]:
    """The clip that goes on (without its borders when the recipe crops), the box that was cut, and every score by name, rounded."""
    box = find_borders(clip, settings)
    values: dict[str, float | None] = {"border": round(border_share(box, clip.size), 4)}
    if not settings.border.crop:
        box = None
    if box:
        clip = clip.crop(box)
    for score in scores:
        value = score(clip)
        values[score.name] = None if value is None else round(value, 4)
    return clip, box, values


def pictures_needed(scores: Sequence[Score]) -> list[Want]:
    """The short sides that the scores read: what the decoder must keep of a frame."""
    return [Want(score.input.short_side, score.input.largest) for score in scores]
