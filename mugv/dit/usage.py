"""How the network of a checkpoint is meant to be asked: the part `usage` of its config.json. A network of ours needs none of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mugv.recipe.flow import Sampler
from mugv.recipe.models import ModelPart


class Usage(ModelPart):
    """What `mugv generate` does with a checkpoint where no flag says otherwise."""

    prompt_suffix: str = ""
    """Follows every prompt."""
    negative: str | None = None
    """What guidance leads away from; None: the empty text, to which training drops captions."""
    file_fps: Annotated[float, Field(gt=0)] | None = None
    """Frames a second of the files that are written; None: what the network is told."""
    sampler: Sampler = Sampler()
    """How clips are sampled."""


PUBLISHED = Usage(prompt_suffix=" aesthetic score: 6.0.", file_fps=20)
"""What the published script does (facts 9.1); its list of negative terms is not in this repository."""
