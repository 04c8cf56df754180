"""The embedded default: frozen random word vectors that need no weights, the same on every machine and in every process.

A word's vector is Gaussian noise drawn from a hash of the word, so different words are nearly orthogonal; a small vector
that depends on the position lets a network tell word order. It knows no synonyms: for real captions use t5.

Words of every script count, in one form of each (NFKC, case-folded). Scripts that part no words (Chinese, Japanese, Thai, ...) give a
token a character, a symbol or emoji is a token of its own. Punctuation, and what cannot be seen, is dropped.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import regex

logger = logging.getLogger(__name__)

POSITION_SCALE = 0.1
_END = "</s>"
_UNSEEN = regex.compile(r"[\p{Cf}\uFE0E\uFE0F--\u200D]", regex.VERSION1)
"""Format characters and variation selectors; the joiner holds emoji together."""
_UNPARTED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_SYMBOL = r"[\p{So}\p{Sm}\p{Sc}\p{Sk}--\p{ASCII}]"
_PART = rf"(?:(?!{_UNPARTED})[\p{{L}}\p{{N}}])"
_WORD = regex.compile(
    rf"{_UNPARTED}\p{{M}}*"
    rf"|{_PART}(?:{_PART}|[\p{{M}}\u200D])*(?:'(?=\p{{L}})(?:(?!{_UNPARTED})[\p{{L}}\p{{M}}])+)?"
    rf"|\p{{RI}}\p{{RI}}|{_SYMBOL}(?:[\U0001F3FB-\U0001F3FF]|\u200D{_SYMBOL})*",
    regex.VERSION1,
)


class HashedEncoder:
    """An end token last; each element has a variance of 1 (+ 0.01 of position). What is dropped of a caption is logged once."""

    def __init__(self, width: int, max_tokens: int) -> None:
        self.width = width
        self.max_tokens = max_tokens
        self._said: set[str] = set()

    def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
        return [self._caption(caption) for caption in captions]

    def encode_null(self) -> np.ndarray:
        return self._caption("")

    def _caption(self, caption: str) -> np.ndarray:
        found = words(caption)
        if caption.strip() and not found:
            self._say(caption, "holds no word or symbol and counts as the empty text")
        if len(found) > self.max_tokens - 1:
            self._say(caption, f"has {len(found)} words and is cut after {self.max_tokens - 1} (text.max_tokens)")
        tokens = [*found[: self.max_tokens - 1], _END]
        vectors = [_gaussian(f"word:{token}", self.width) for token in tokens]
        positions = [_gaussian(f"position:{k}", self.width) for k in range(len(tokens))]
        return np.stack(vectors) + np.float32(POSITION_SCALE) * np.stack(positions)

    def _say(self, caption: str, what: str) -> None:
        kind = what.split()[0]
        if kind not in self._said:
            self._said.add(kind)
            logger.warning("text: the caption %.80r %s; others may too, this is said once", caption, what)


def words(caption: str) -> list[str]:
    """The tokens of a caption, without the end token. Equal for texts that differ in case, width or composition of characters alone."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).casefold())
    text = _UNSEEN.sub("", text).replace("\u2019", "'")
    return [token if _symbol(token) else token.replace("\u200d", "") for token in _WORD.findall(text)]


def _symbol(token: str) -> bool:
    return unicodedata.category(token[0]).startswith("S")


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
