"""YAML text to plain values, as recipes and `--set` use it.

YAML 1.2 where 1.1 surprises: only `true` and `false` are switches, so that `off`, `no` and a date stay the words that were typed (a key
that is a switch takes them all the same), and `1e-4` is a number. A key that stands twice is an error, not the last one's victory.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from mugv.errors import UserError

LARGEST = 1 << 20
"""Bytes of a recipe file; the longest of this package has 5,000."""


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError):
            # What PyYAML's constructors raise on `0x_`, `!!int ""`, `!!float x` and integers of thousands of digits.
            raise yaml.constructor.ConstructorError(None, None, "a value that cannot be read", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            # `<<` takes over another mapping's keys, which those written here may replace.
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in lines:
                    problem = f"key {key.value!r} is given twice, on lines {lines[key.value]} and {line}"
                    raise yaml.constructor.ConstructorError(None, None, problem, None)
                lines[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("bool", "timestamp", "float")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def parse(text: str) -> Any:
    """The value. Raises ValueError that says in one line what is wrong and, where known, in which line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{at}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The recipe in a file. Raises UserError: unreadable, too large, not UTF-8, no YAML, no mapping."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"recipe {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > LARGEST:
        raise UserError(f"recipe {path}: larger than {LARGEST >> 20} MiB; expected a YAML file with the recipe's keys")
    try:
        tree = parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"recipe {path}: line {line} is not UTF-8 text; expected a YAML file with the recipe's keys") from None
    except ValueError as error:
        raise UserError(f"recipe {path}: not valid YAML ({error})") from None
    if not isinstance(tree, dict):
        what = {"NoneType": "nothing", "list": "a list", "str": "text"}.get(type(tree).__name__, type(tree).__name__)
        raise UserError(f"recipe {path}: expected a mapping of keys, got {what}")
    return tree
