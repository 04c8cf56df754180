"""Labels of preference training, read and checked: labels.jsonl, one line an item, is what people (or the judge) fill in.

    {"kind": "absolute", "clip": "0003-1", "prompt": "...", "pass": true, "labeller": "judge"}
    {"kind": "pair", "winner": "0003-1", "loser": "0003-2", "prompt": "...", "labeller": "judge"}

`prompt`, where it is given, must be the candidate's: labels of other candidates have the same names. Other keys are the labellers' own.
Several people may label one clip as long as they agree: what contradicts itself teaches nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mugv.errors import UserError
from mugv.json_lines import read_json_lines, shown

EXAMPLE = '{"kind": "absolute", "clip": "0003-1", "pass": true} or {"kind": "pair", "winner": "0003-1", "loser": "0003-2"}'
KEYS = {"absolute": ("clip", "pass"), "pair": ("winner", "loser")}


@dataclass(frozen=True)
class Labels:
    """What the label file says, by clip name; every clip and every pair once."""

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def read_labels(path: Path, candidates: Collection[str] | None = None) -> Labels:
    """Parse and check a label file. `candidates`: their names, as a mapping with the prompt of each; None: they are not known yet.

    Raises UserError naming the file's line, and both lines where two contradict each other.
    """
    passes: dict[str, tuple[bool, int]] = {}
    pairs: dict[tuple[str, str], int] = {}
    for line, item in read_json_lines(path, EXAMPLE):
        try:
            if _kind(item) == "absolute":
                _take_pass(passes, item, line, candidates)
            else:
                _take_pair(pairs, item, line, candidates)
        except ValueError as error:
            raise UserError(f"{path.name} line {line}: {error}") from None
    passed = tuple(clip for clip, (value, _) in passes.items() if value)
    return Labels(passed, tuple(clip for clip, (value, _) in passes.items() if not value), tuple(pairs))


def _kind(item: dict[str, Any]) -> str:
    kind = item.get("kind")
    keys = KEYS.get(kind) if isinstance(kind, str) else None
    if keys is None or any(key not in item for key in keys):
        raise ValueError(f"expected {EXAMPLE}, with other keys beside them or none")
    return str(kind)


def _take_pass(passes: dict[str, tuple[bool, int]], item: dict[str, Any], line: int, candidates: Collection[str] | None) -> None:
    clip, value = _clip(item, "clip", candidates), item["pass"]
    if not isinstance(value, bool):
        # A text "false" is true to Python, and an unfilled null is false.
        raise ValueError(f"pass must be true or false, without quotes, got {shown(value)}")
    said, before = passes.setdefault(clip, (value, line))
    if said != value:
        raise ValueError(f"clip {clip!r} has pass {_word(value)}, but line {before} says {_word(said)}; keep one of them")


def _take_pair(pairs: dict[tuple[str, str], int], item: dict[str, Any], line: int, candidates: Collection[str] | None) -> None:
    winner, loser = (_clip(item, key, candidates) for key in ("winner", "loser"))
    if winner == loser:
        raise ValueError(f"winner and loser are the same clip {winner!r}: there is nothing to learn from")
    if isinstance(candidates, Mapping) and candidates[winner] != candidates[loser]:
        two = f"{shown(candidates[winner])} and {shown(candidates[loser])}"
        raise ValueError(f"winner {winner!r} and loser {loser!r} are of two prompts, {two}; compare clips of one prompt")
    if (loser, winner) in pairs:
        raise ValueError(f"{winner!r} wins over {loser!r}, but line {pairs[loser, winner]} says the opposite; keep one of them")
    pairs.setdefault((winner, loser), line)


def _clip(item: dict[str, Any], key: str, candidates: Collection[str] | None) -> str:
    name = item[key]
    if not isinstance(name, str):
        raise ValueError(f'{key} must be the name of a clip, such as "0003-1", got {shown(name)}')
    if candidates is not None and name not in candidates:
        raise ValueError(f"clip {shown(name)} is not among the {len(candidates)} candidates")
    if isinstance(candidates, Mapping) and isinstance(item.get("prompt"), str) and item["prompt"] != candidates[name]:
        raise ValueError(
            f"clip {name!r} is of the prompt {shown(candidates[name])}, the label of {shown(item['prompt'])}; label these candidates"
        )
    return name


def _word(value: bool) -> str:
    return str(value).lower()
