"""Read a recipe from YAML, apply `--set key=value`, refuse mistakes by name, and give it a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mugv.errors import UserError
from mugv.recipe.schema import Recipe


class _Loader(yaml.SafeLoader):
    """YAML takes the last of two equal keys without a word; here they are an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            # `<<` takes over another mapping's keys, which those written here may replace.
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice, on lines {lines[key.value]} and {line}")
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` with `key.sub=value` overrides (values are YAML). Raises UserError naming the key."""
    path = Path(path)
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise UserError(f"recipe {path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise UserError(f"recipe {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UserError(f"recipe {path}: expected a mapping of keys, got {type(tree).__name__}")
    for item in overrides:
        _override(tree, item)
    return _validate(tree, str(path))


def recipe_from_json(text: str) -> Recipe:
    """The inverse of recipe_to_json."""
    return _validate(json.loads(text), "recipe")


def recipe_to_json(recipe: BaseModel) -> str:
    """Canonical JSON: sorted keys, no spaces; equal recipes give equal text."""
    return json.dumps(recipe.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))


def digest(part: BaseModel | dict[str, Any] | list[Any]) -> str:
    """SHA-256 (hex) of a recipe or of a part of one."""
    tree = part.model_dump(mode="json", by_alias=True) if isinstance(part, BaseModel) else part
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def part(recipe: Recipe, dotted: str) -> Any:
    """The value at `a.b.0.c` as plain JSON types: what a stage's cache key is made of."""
    value: Any = recipe.model_dump(mode="json", by_alias=True)
    for name in dotted.split("."):
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def _override(tree: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise UserError(f"--set {item}: expected key=value, for example curation.sharpness.minimum=50")
    *parents, last = key.split(".")
    node: Any = tree
    for name in parents:
        node = _child(node, name, key)
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise UserError(f"--set {key}: {text!r} is not a valid YAML value") from None
    if isinstance(node, list):
        _child(node, last, key)
        node[int(last)] = value
    else:
        node[last] = value


def _child(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        if not name.isdigit() or int(name) >= len(node):
            raise UserError(f"--set {key}: {name!r} is not an index; the list has {len(node)} entries, 0 to {len(node) - 1}")
        return node[int(name)]
    if not isinstance(node, dict):
        raise UserError(f"--set {key}: nothing can be set under {name!r}")
    return node.setdefault(name, {})


def _validate(tree: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(x) for x in first["loc"]) or "(top)"
        raise UserError(f"{where}: {key}: {_explain(first, key)}") from None


def _explain(error: Any, key: str) -> str:
    if error["type"] == "extra_forbidden":
        known = _fields_at(key.split(".")[:-1])
        return f"unknown key; accepted here: {', '.join(known)}" if known else "unknown key"
    if error["type"] == "missing":
        return "this key is required"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    return f"{message}, got {given!r}" if isinstance(given, (str, int, float, bool)) else message


def _fields_at(path: list[str]) -> list[str]:
    model: Any = Recipe
    for name in path:
        if name.isdigit():
            continue
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = next((t for t in _models_in(field.annotation)), None)
        if model is None:
            return []
    return sorted(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]
