"""The interface of a text encoder, and the one place that chooses between them.

Legend: L tokens of a caption (padding is never returned), width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mugv.recipe.models import TextEncoder


class Encoder(Protocol):
    """A frozen text encoder: equal captions give equal embeddings, in any batch and any process."""

    width: int
    max_tokens: int

    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        """Float32 embeddings [L, width] of each caption, 1 <= L <= max_tokens; the last token is an end token."""
        ...

    def encode_null(self) -> np.ndarray:
        """Float32 [1, width]: the empty caption, which guidance and caption dropout use."""
        ...


def open_encoder(config: TextEncoder) -> Encoder:
    """The encoder that the recipe names. Raises UserError when its weights cannot be found."""
    if config.kind == "hashed":
        from mugv.text.hashed import HashedEncoder

        return HashedEncoder(config.width, config.max_tokens)
    from mugv.text.t5 import T5Encoder

    return T5Encoder(config.path, config.width, config.max_tokens)
