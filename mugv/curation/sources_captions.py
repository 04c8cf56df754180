"""captions.jsonl: what is said of the sources.

One JSON object a line: {"source": name, "start": seconds, "end": seconds, "caption": text, "licence": text}. Without start and
end the caption covers the whole file; the licence, of the whole source, may stand without a caption. Standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from mugv.curation.sources import Caption
from mugv.errors import UserError

KEYS = ("source", "start", "end", "caption", "licence")


@dataclass
class Said:
    """Of one source."""

    captions: list[Caption] = field(default_factory=list)
    licence: str = ""
    licence_line: int = 0


def read_captions(data: bytes, label: str, names: Collection[str], where: str) -> dict[str, Said]:
    """What the file says by source, captions in time order. `label`: the file's name, `where`: of the videos, both for errors.

    Raises UserError naming file and line.
    """
    said: dict[str, Said] = {}
    seen: dict[tuple[str, float, float | None], int] = {}
    for number, line in enumerate(_text(data, label).splitlines(), 1):
        if not line.strip():
            continue
        at = f"{label} line {number}"
        tree = _parse(line, at)
        name = tree["source"]
        if name not in names:
            raise UserError(f"{at}: source {name!r} is not in {where}")
        about = said.setdefault(name, Said())
        _add_licence(about, tree, number, at)
        if "caption" in tree:
            caption = _caption(tree, at)
            _refuse_second(seen, (name, caption.start, caption.end), number, at)
            about.captions.append(caption)
    for about in said.values():
        about.captions.sort(key=lambda c: (c.start, c.end or math.inf))
    return said


def _text(data: bytes, label: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{label} line {line}: not UTF-8 text") from None


def _parse(line: str, at: str) -> dict[str, Any]:
    try:
        tree = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{at}: invalid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(tree, dict):
        raise UserError(f'{at}: expected an object such as {{"source": "a.mp4", "caption": "..."}}')
    for key in ("source",) if "licence" in tree else ("source", "caption"):
        if key not in tree:
            raise UserError(f"{at}: missing key {key!r}")
    for key in ("source", "caption", "licence"):
        if key in tree and (not isinstance(tree[key], str) or not tree[key].strip()):
            raise UserError(f"{at}: {key!r} must be text, got {tree[key]!r}")
    unknown = sorted(set(tree) - set(KEYS))
    if unknown:
        raise UserError(f"{at}: unknown key {unknown[0]!r}; accepted: {', '.join(KEYS)}")
    return tree


def _caption(tree: dict[str, Any], at: str) -> Caption:
    start, end = _seconds(tree, "start", at), _seconds(tree, "end", at)
    if end is not None and (start or 0.0) >= end:
        raise UserError(f"{at}: start {start or 0.0:g} must be less than end {end:g}")
    return Caption(start or 0.0, end, tree["caption"].strip())


def _add_licence(about: Said, tree: dict[str, Any], number: int, at: str) -> None:
    licence = tree.get("licence", "").strip()
    if licence and about.licence and licence != about.licence:
        raise UserError(f"{at}: licence {licence!r} of {tree['source']!r}, but line {about.licence_line} says {about.licence!r}")
    if licence:
        about.licence, about.licence_line = licence, number


def _refuse_second(seen: dict[tuple[str, float, float | None], int], key: tuple[str, float, float | None], number: int, at: str) -> None:
    if key in seen:
        span = "the whole file" if key[2] is None else f"{key[1]:g} to {key[2]:g} s"
        raise UserError(f"{at}: duplicate key, {key[0]!r} ({span}) already has a caption on line {seen[key]}")
    seen[key] = number


def _seconds(tree: dict[str, Any], key: str, at: str) -> float | None:
    value = tree.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UserError(f"{at}: {key!r} must be seconds from 0 on, got {value!r}")
    return float(value)
