"""CLIP embeddings of a clip and the aesthetic score on them."""

from __future__ import annotations

import numpy as np

from mugv.curation.scores.base import Clip
from mugv.recipe.curation import Curation


def embed(clip: Clip, settings: Curation) -> np.ndarray | None:
    """Unit vector float32 [D] of the clip's look; None when the recipe names no CLIP model."""
    if settings.aesthetic.clip is None:
        return None
    raise NotImplementedError
