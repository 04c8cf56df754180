"""captions.jsonl: what is said of the sources.

One JSON object a line: {"source": name, "start": seconds, "end": seconds, "caption": text, "licence": text}. Without start and
end the caption covers the whole file; the licence, of the whole source, may stand without a caption. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

from mugv.curation.sources import Caption
from mugv.curation.sources_folder import storable
from mugv.errors import UserError
from mugv.json_lines import parse_json_lines, shown
from mugv.redact import unsigned

EXAMPLE = '{"source": "a.mp4", "caption": "..."}'
KEYS = ("source", "start", "end", "caption", "licence")


@dataclass
class Said:
    """Of one source."""

    captions: list[Caption] = field(default_factory=list)
    licence: str = ""
    licence_line: int = 0


def read_captions(data: bytes, label: str, names: Collection[str], where: str) -> dict[str, Said]:
    """What the file says by source, captions in time order. `label`: the file's name, `where`: of the videos, both for errors.

    A source is meant whatever normal form of Unicode its name is written in. Raises UserError naming file and line.
    """
    said: dict[str, Said] = {}
    seen: dict[tuple[str, float, float | None], int] = {}
    known = _Names(names, where)
    for number, tree in parse_json_lines(data, EXAMPLE, label, names=("source",)):
        at = f"{label} line {number}"
        _check(tree, at)
        name = known.meant(tree["source"], at)
        about = said.setdefault(name, Said())
        _add_licence(about, tree, number, at)
        if "caption" in tree:
            caption = _caption(tree, at)
            _refuse_second(seen, (name, caption.start, caption.end), number, at)
            about.captions.append(caption)
    for about in said.values():
        about.captions.sort(key=lambda c: (c.start, c.end or math.inf))
    return said


class _Names:
    """The sources' names, found by their normal form where the spelling differs: macOS writes é as e and an accent."""

    def __init__(self, names: Collection[str], where: str) -> None:
        self.names, self.where = names, where
        self.alike: dict[str, list[str]] = {}
        for name in names:
            self.alike.setdefault(normalize("NFC", name), []).append(name)

    def meant(self, given: str, at: str) -> str:
        """Raises UserError when there is none, or more than one and none is spelt so."""
        with suppress(UnicodeEncodeError):
            given = storable(given)
        if given in self.names:
            return given
        found = self.alike.get(normalize("NFC", given)) or self.alike.get(normalize("NFC", unsigned(given)), [])
        if not found:
            raise UserError(f"{at}: source {shown(given)} is not in {self.where}")
        if len(found) > 1:
            raise UserError(f"{at}: source {shown(given)} is {len(found)} files whose names look the same; use the spelling of one")
        return found[0]


def _check(tree: dict[str, Any], at: str) -> None:
    for key in ("source",) if "licence" in tree else ("source", "caption"):
        if key not in tree:
            raise UserError(f"{at}: missing key {key!r}")
    for key in ("source", "caption", "licence"):
        if key in tree and (not isinstance(tree[key], str) or not tree[key].strip()):
            raise UserError(f"{at}: {key!r} must be text, got {shown(tree[key])}")
    unknown = sorted(set(tree) - set(KEYS))
    if unknown:
        raise UserError(f"{at}: unknown key {shown(unknown[0])}; accepted: {', '.join(KEYS)}")


def _caption(tree: dict[str, Any], at: str) -> Caption:
    start, end = _seconds(tree, "start", at), _seconds(tree, "end", at)
    if end is not None and (start or 0.0) >= end:
        raise UserError(f"{at}: start {start or 0.0:g} must be less than end {end:g}")
    return Caption(start or 0.0, end, tree["caption"].strip())


def _add_licence(about: Said, tree: dict[str, Any], number: int, at: str) -> None:
    licence = tree.get("licence", "").strip()
    if licence and about.licence and licence != about.licence:
        raise UserError(
            f"{at}: licence {shown(licence)} of {shown(tree['source'])}, but line {about.licence_line} says {shown(about.licence)}"
        )
    if licence:
        about.licence, about.licence_line = licence, number


def _refuse_second(seen: dict[tuple[str, float, float | None], int], key: tuple[str, float, float | None], number: int, at: str) -> None:
    if key in seen:
        span = "the whole file" if key[2] is None else f"{key[1]:g} to {key[2]:g} s"
        raise UserError(f"{at}: duplicate key, {shown(key[0])} ({span}) already has a caption on line {seen[key]}")
    seen[key] = number


def _seconds(tree: dict[str, Any], key: str, at: str) -> float | None:
    value = tree.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UserError(f"{at}: {key!r} must be seconds from 0 on, got {shown(value)}")
    return float(value)
