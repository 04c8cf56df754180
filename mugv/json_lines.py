"""Files of one JSON object a line, as people's tools and editors write them. Standard library only."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from mugv.errors import UserError

SHOWN = 60
"""Characters of a wrong value that an error shows."""
DEEPEST = 32
TOO_DEEP = f"nested deeper than {DEEPEST} levels"


def read_json_lines(path: Path, example: str, label: str = "", names: Collection[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `parse_json_lines`, of a file; without a label errors call it by its name. Raises UserError when it cannot be read."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a regular file; give a file with one JSON object a line, such as {example}")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the name.
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return parse_json_lines(data, example, label or path.name, names)


def parse_json_lines(data: bytes, example: str, label: str, names: Collection[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    r"""(line number from 1, object) of every line that is not blank. Lines end at "\n" alone: JSON text may hold U+2028, U+0085 raw.

    `example`: a line as it should be, for errors. `names`: keys whose text may be a file name that is not UTF-8, as Python spells it
    (bytes as U+DC80 to U+DCFF). A byte order mark is taken. Raises UserError naming line and fault: not UTF-8, no JSON object, a key
    twice, nested too deep, NaN or a number that no double holds, half a surrogate pair.
    """
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        at = f"{label} line {number}"
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise UserError(f"{at}: not UTF-8 text; save the file as UTF-8") from None
        if text.strip():
            yield number, _object(text, example, at, names)


def shown(value: object) -> str:
    """A wrong value for an error line: escaped, and cut when it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _object(text: str, example: str, at: str, names: Collection[str]) -> dict[str, Any]:
    try:
        tree = _DECODER.decode(text)
        if not isinstance(tree, dict):
            raise ValueError(f"no object but {shown(tree)}")
        _refuse_deep(tree)
        if "\\u" in text:
            _refuse_halves({key: value for key, value in tree.items() if key not in names})
    except RecursionError:
        raise UserError(f"{at}: {TOO_DEEP}; expected a line such as {example}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{at}: invalid JSON ({error.msg} at column {error.colno}); expected a line such as {example}") from None
    except ValueError as error:
        raise UserError(f"{at}: {error}; expected a line such as {example}") from None
    return tree


def _refuse_deep(tree: dict[str, Any]) -> None:
    """What can just be read may be too deep to be shown."""
    level: list[Any] = [tree]
    for _ in range(DEEPEST):
        level = [child for value in level for child in (value.values() if isinstance(value, dict) else value)]
        level = [child for child in level if isinstance(child, (dict, list))]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _refuse_halves(tree: dict[str, Any]) -> None:
    if half := re.search("[\ud800-\udfff]", json.dumps(tree, ensure_ascii=False)):
        raise ValueError(f"{half[0]!a} is half of a surrogate pair and no character")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} twice in one object")
    return tree


def _whole(digits: str) -> int:
    _number(digits)
    return int(digits)


def _number(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"{shown(digits)} is too large a number")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_number, parse_constant=_constant)
