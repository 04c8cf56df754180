"""Read a recipe from YAML, apply `--set key=value`, refuse mistakes by name, and give it a digest."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mugv.errors import UserError
from mugv.recipe.read_yaml import parse, read_mapping
from mugv.recipe.schema import Recipe

Change = str | tuple[str, Any]
"""`key.sub=value` with a YAML value, as `--set` takes it, or (`key.sub`, value)."""
DEEPEST = 20


def load_recipe(path: str | Path, overrides: Sequence[Change] = (), gpus: int | None = None) -> Recipe:
    """The recipe in `path` with changes on top. Raises UserError naming the key, and the file or the change that it stands in.

    `gpus`: of this machine, which a recipe that leaves `parallel.world` out trains on; None: it is for another machine.
    """
    tree = read_mapping(Path(path))
    places = {}
    for change in overrides:
        key, value, place = _change(change)
        tree = _changed(tree, key.split("."), value, place)
        places[key] = place
    return _with_world(tree, gpus, lambda found: _validate(found, str(path), places))


def _with_world(tree: dict[str, Any], gpus: int | None, validate: Callable[[dict[str, Any]], Recipe]) -> Recipe:
    """The recipe with `parallel.world` as a number: where it is left to the machine, as many processes as there are GPUs and as the
    recipe's batches and layout divide among."""
    layout = tree.get("parallel") or {}
    asked = layout.get("world") if isinstance(layout, dict) else 1
    automatic = asked == "auto" or (asked == 0 and asked is not False)
    if not automatic and (asked is not None or gpus is None):
        return validate(tree)
    sizes = [layout.get(name, 1) for name in ("tensor", "pipeline", "context")]
    shared = math.prod(size for size in sizes if type(size) is int and size > 0)
    count = max(1, _gpus_of_node(tree) if gpus is None else gpus)
    *more, least = [world for world in range(count, 0, -1) if world % shared == 0] or [count]
    for world in more:
        with suppress(UserError):
            return validate(_changed(tree, ["parallel", "world"], world, ""))
    return validate(_changed(tree, ["parallel", "world"], least, ""))


def _gpus_of_node(tree: dict[str, Any]) -> int:
    """Of the recipe's own nodes for training; 1 where it says nothing that could be one."""
    found: Any = tree.get("resources")
    found = found.get("gpus_per_node") or found.get("train") if isinstance(found, dict) else None
    found = found.get("gpus") if isinstance(found, dict) else found
    return found if type(found) is int and found > 0 else 1


def recipe_from_json(text: str) -> Recipe:
    """The inverse of recipe_to_json. Raises UserError for other text, which a run's parameter may hold when it was edited by hand."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"recipe: is not JSON ({error}); take what `mugv compile` wrote, or submit the recipe's file") from None
    if not isinstance(tree, dict):
        raise UserError("recipe: must be a JSON object of the recipe's keys; take what `mugv compile` wrote, or submit the recipe's file")
    return _validate(tree, "recipe", {})


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


def _change(change: Change) -> tuple[str, Any, str]:
    """Key, value, and how errors call the change."""
    if isinstance(change, tuple):
        return *change, change[0]
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UserError(f"--set {change}: expected key=value, for example curation.sharpness.minimum=50")
    try:
        return key, parse(text), f"--set {key}"
    except ValueError as error:
        raise UserError(f"--set {key}: {text!r} is not a valid YAML value ({error})") from None


def _changed(node: Any, names: Sequence[str], value: Any, place: str) -> Any:
    """A copy of `node` with `value` at the path: what a YAML alias shares with other places stays there as it is."""
    if len(names) > DEEPEST:
        raise UserError(f"{place}: no key of a recipe lies that deep")
    if not names:
        return value
    name, rest = names[0], names[1:]
    if isinstance(node, list):
        if not (name.isascii() and name.isdigit()) or len(name) > 9 or int(name) >= len(node):
            raise UserError(f"{place}: {name!r} is not an index; the list has {len(node)} entries{_indices(len(node))}")
        return [_changed(each, rest, value, place) if i == int(name) else each for i, each in enumerate(node)]
    if node is not None and not isinstance(node, dict):
        raise UserError(f"{place}: nothing can be set under a value such as {node!r}")
    return {**(node or {}), name: _changed((node or {}).get(name), rest, value, place)}


def _indices(entries: int) -> str:
    return f", 0 to {entries - 1}" if entries else ""


def _validate(tree: dict[str, Any], where: str, places: dict[str, str]) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        from mugv.recipe.mistakes import explain

        # A key that is missing is often one that is misspelt.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        key, message = ".".join(str(x) for x in first["loc"]), explain(first)
        place = _place(key, message, where, places)
        raise UserError(f"{place}: {message}" if not key or place.endswith(f" {key}") else f"{place}: {key}: {message}") from None


def _place(key: str, message: str, where: str, places: dict[str, str]) -> str:
    """The change at, above or under the wrong key, which rules between sections name first; otherwise the file."""
    key = key or re.split("[: ]", message)[0]
    for changed, place in reversed(places.items()):
        if f"{key}.".startswith(f"{changed}.") or f"{changed}.".startswith(f"{key}.") or changed in message:
            return place
    return where
