"""The page of every recipe key: type, default and the words under the field, read from the recipe's models.

Types and defaults come from pydantic's JSON schema, the words from the source, so the page cannot say anything else than the code.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mugv.platform.generated import table

Model = type[BaseModel]
TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
INTRODUCTION = """\
# Recipe keys

<!-- Generated from mugv/recipe by `python -m mugv.cli.reference_docs`. -->

A recipe is one YAML file. Every key below can be set in the file or with `--set KEY=VALUE` on the command line, where `N` in a key is the
index of a list entry, from 0: `--set pretrain.0.steps=50`. An unknown key is an error. Sizes are pixels, times seconds, learning rates per
step, unless a line says otherwise. `unset` is YAML's `null`.
"""


def recipe_page(recipe: Model) -> str:
    """Markdown with a section for each part of the recipe. Raises ValueError naming the keys that have no words."""
    places = _places(recipe)
    silent = [key for model, paths in places.items() for key in _silent(model, paths[0])]
    if silent:
        raise ValueError(f"no docstring under {', '.join(silent)}; a line with the unit is enough")
    titles = {model: _title(model, paths) for model, paths in places.items()}
    lines = [INTRODUCTION]
    for model, paths in places.items():
        lines += _section(model, paths, titles)
    return "\n".join(lines)


def _places(recipe: Model) -> dict[Model, list[str]]:
    """Every model of the tree in reading order -> the dotted paths at which it stands."""
    found: dict[Model, list[str]] = {}

    def visit(model: Model, path: str) -> None:
        found.setdefault(model, []).append(path)
        for name, field in model.model_fields.items():
            for child, index in _models_in(field.annotation):
                visit(child, _join(path, (field.alias or name) + index))

    visit(recipe, "")
    return found


def _models_in(annotation: Any, index: str = "") -> Iterator[tuple[Model, str]]:
    """The models that an annotation holds, each with `.N` when it stands in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, index
    within = ".N" if getattr(annotation, "__origin__", None) in (tuple, list) else index
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument, within)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _title(model: Model, paths: list[str]) -> str:
    if paths == [""]:
        return "Top level"
    return paths[0] if len(paths) == 1 else model.__name__


def _section(model: Model, paths: list[str], titles: dict[Model, str]) -> list[str]:
    schema = model.model_json_schema(by_alias=True, ref_template="{model}")
    prefix = paths[0] if len(paths) == 1 else ""
    rows = [_key_row(model, name, schema, prefix, titles) for name in model.model_fields]
    at = [] if len(paths) == 1 else [f"At {', '.join(f'`{path}`' for path in paths)}.", ""]
    return [f"## {titles[model]}", "", *_paragraph(_summary(model)), *at, *table(["Key", "Type", "Default", "What"], rows)]


def _paragraph(text: str) -> list[str]:
    return [text, ""] if text else []


def _summary(model: Model) -> str:
    """A part's own docstring in one line; "" when it has none."""
    return " ".join((model.__dict__.get("__doc__") or "").split())


def _key_row(model: Model, name: str, schema: dict[str, Any], prefix: str, titles: dict[Model, str]) -> list[str]:
    field = model.model_fields[name]
    key = field.alias or name
    links = {child.__name__: f"[{titles[child]}](#{_anchor(titles[child])})" for child, _ in _models_in(field.annotation)}
    return [f"`{_join(prefix, key)}`", _type(schema["properties"][key], links), _default(field), _words(model, name)]


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _type(schema: dict[str, Any], links: dict[str, str]) -> str:
    if "$ref" in schema:
        return links[schema["$ref"]]
    if "anyOf" in schema:
        return " or ".join(_type(s, links) for s in schema["anyOf"] if s.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return _list(schema, links)
    if schema.get("type") == "object":
        return f"mapping of names to {_type(schema['additionalProperties'], links)}"
    return TYPES[schema["type"]] + _bounds(schema)


def _list(schema: dict[str, Any], links: dict[str, str]) -> str:
    if "prefixItems" in schema:
        entries = schema["prefixItems"]
        return f"list of {len(entries)}: {_type(entries[0], links)}"
    least = f", at least {schema['minItems']}" if "minItems" in schema else ""
    return f"list{least}: {_type(schema['items'], links)}"


def _bounds(schema: dict[str, Any]) -> str:
    names = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "exclusiveMaximum": "under"}
    parts = [f"{words} {schema[name]:g}" for name, words in names.items() if name in schema]
    return f", {', '.join(parts)}" if parts else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return _changed(value) or "its own defaults"
    return _plain(value)


def _changed(value: BaseModel) -> str:
    """What a part's default sets that the part's own defaults do not."""
    own = {name: field.get_default(call_default_factory=True) for name, field in type(value).model_fields.items()}
    changed = {name: getattr(value, name) for name in own if own[name] is PydanticUndefined or getattr(value, name) != own[name]}
    return ", ".join(f"`{name}: {_text(v)}`" for name, v in changed.items())


def _plain(value: Any) -> str:
    return "unset" if value is None else f"`{_text(value)}`"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_text(v) for v in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


def _words(model: Model, name: str) -> str:
    """The docstring under a field; for a part without one, the part's own."""
    for kind in model.__mro__:
        found = _docstrings(kind).get(name)
        if found:
            return " ".join(found.split())
    return next((_summary(child) for child, _ in _models_in(model.model_fields[name].annotation)), "")


def _silent(model: Model, path: str) -> list[str]:
    return [_join(path, name) for name in model.model_fields if not _words(model, name)]


@cache
def _docstrings(kind: type) -> dict[str, str]:
    """Field -> the string literal under it, from a class's source."""
    module = sys.modules[kind.__module__]
    if kind.__module__ in ("builtins", "abc") or kind is BaseModel:
        return {}
    classes = (node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef))
    tree = next((node for node in classes if node.name == kind.__name__), None)
    body = tree.body if tree else []
    return {
        field.target.id: text.value.value
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
