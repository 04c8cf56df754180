"""The interface of a text encoder, and the one place that chooses between them.

Legend: L tokens of a caption (padding is never returned), width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mugv.precision import Resolved
from mugv.recipe.models import TextEncoder


class Encoder(Protocol):
    """A frozen text encoder: equal captions give equal embeddings in any process, and in any batch but for t5's rounding."""

    width: int
    max_tokens: int

    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        """Float32 embeddings [L, width] of each caption, 1 <= L <= max_tokens; the last token is an end token."""
        ...

    def encode_null(self) -> np.ndarray:
        """Float32 [1, width]: the empty caption, which guidance and caption dropout use."""
        ...


def open_encoder(config: TextEncoder, precision: Resolved = "fp32") -> Encoder:
    """The encoder that the recipe names, t5 with weights of `precision`. Raises UserError when its weights cannot be found."""
    if config.kind == "hashed":
        from mugv.text.hashed import HashedEncoder

        return HashedEncoder(config.width, config.max_tokens)
    from mugv.text.t5 import T5Encoder

    return T5Encoder(config.path, config.width, config.max_tokens, precision)
