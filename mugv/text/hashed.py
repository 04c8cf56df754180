"""The embedded default: frozen random word vectors that need no weights, the same on every machine and in every process.

A word's vector is Gaussian noise drawn from a hash of the word, so different words are nearly orthogonal; a small vector
that depends on the position lets a network tell word order. It knows no synonyms: for real captions use t5.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

POSITION_SCALE = 0.1
_END = "</s>"
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


class HashedEncoder:
    """Words in lower case, punctuation dropped, an end token last; each element has a variance of 1 (+ 0.01 of position)."""

    def __init__(self, width: int, max_tokens: int) -> None:
        self.width = width
        self.max_tokens = max_tokens

    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        return [self._caption(caption) for caption in captions]

    def encode_null(self) -> np.ndarray:
        return self._caption("")

    def _caption(self, caption: str) -> np.ndarray:
        tokens = [*_WORD.findall(caption.lower())[: self.max_tokens - 1], _END]
        words = [_gaussian(f"word:{token}", self.width) for token in tokens]
        positions = [_gaussian(f"position:{k}", self.width) for k in range(len(tokens))]
        return np.stack(words) + np.float32(POSITION_SCALE) * np.stack(positions)


@lru_cache(maxsize=8192)
def _gaussian(name: str, width: int) -> np.ndarray:
    """Standard normal float32 [width] from a SHAKE-256 stream by Box-Muller: no library's generator can change it."""
    pairs = (width + 1) // 2
    bits = np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * pairs), dtype="<u4").astype(np.float64)
    uniform = (bits + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    vector = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:width].astype(np.float32)
    vector.flags.writeable = False
    return vector
