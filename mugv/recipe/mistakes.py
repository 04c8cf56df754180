"""What is wrong with a recipe and what would be right, in one line, from pydantic's first error."""

from __future__ import annotations

import re
import reprlib
import types
import typing
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mugv.recipe.schema import Recipe

Model = type[BaseModel]
MANY = 8
"""Keys that are listed in full."""
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def explain(error: ErrorDetails) -> str:
    """The mistake and its remedy, without the key that it stands at."""
    kind, loc = error["type"], error["loc"]
    if kind == "extra_forbidden":
        return f"unknown key; {_nearest(loc)}"
    found = _annotation(loc)
    if kind == "missing":
        return f"this key is required: {describe(found)}" if found else "this key is required"
    given = error["input"]
    if given is None and kind != "value_error":
        return f"null is not accepted here; expected {describe(found)}{_default(loc)}"
    if kind in ("tuple_type", "list_type", "dict_type", "model_type", "model_attributes_type") and found:
        return f"expected {describe(found)}, got {_value(given)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{message}, got {_value(given)}" if isinstance(given, (str, int, float, bool)) else message


def describe(annotation: Any) -> str:
    """Of a field's type, in words: `a list of lists of 2 whole numbers`."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if annotation in words:
        return words[annotation]
    origin, arguments = typing.get_origin(annotation), [a for a in typing.get_args(annotation) if a is not type(None)]
    if origin is typing.Annotated:
        return describe(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(describe, arguments)))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"a list of {_many(arguments[0])}" if Ellipsis in arguments else f"a list of {len(arguments)} {_many(arguments[0])}"
    if origin is dict:
        return f"a mapping of names to {_many(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with keys such as {', '.join(_keys(annotation)[:4])}"
    return "another value"


def _many(annotation: Any) -> str:
    """The words of `describe` in the plural: `lists of 2 whole numbers`."""
    article, noun, rest = re.fullmatch(r"(a )?(text|mapping|list|whole number|number|)(.*)", describe(annotation)).groups()  # type: ignore[union-attr]
    return f"{noun}s{rest}" if article else f"{noun}{rest}"


def _nearest(loc: Sequence[int | str]) -> str:
    """Did you mean: the nearest key beside the wrong one, else where a key of that name stands, else the keys that there are."""
    *parents, name = [str(x) for x in loc]
    above = ".".join(parents)
    model = _model(_annotation(parents))
    known = _keys(model) if model else []
    near = get_close_matches(name.strip("_"), known, 1, 0.6)
    if near:
        return f"did you mean {_join(above, near[0])}?"
    elsewhere = [key for key in _all_keys(Recipe) if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"a key of that name is {' or '.join(elsewhere[:3])}"
    more = f", ... ({len(known)} keys, all in docs/reference/recipe.md)" if len(known) > MANY else ""
    return f"accepted here: {', '.join(known[:MANY])}{more}"


def _all_keys(model: Model, above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = _join(above, field.alias or name)
        yield key
        child = _model(field.annotation)
        if child:
            yield from _all_keys(child, f"{key}.N" if _is_list(field.annotation) else key)


def _annotation(loc: Sequence[int | str]) -> Any:
    """The type of the value at a place of the recipe; None where the recipe has no such place."""
    found: Any = Recipe
    for name in loc:
        found = _within(found, name)
        if found is None:
            return None
    return found


def _within(annotation: Any, name: int | str) -> Any:
    model = _model(annotation, through_lists=False)
    if model:
        fields = {field.alias or key: field.annotation for key, field in model.model_fields.items()}
        return fields.get(str(name))
    for part in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(part) in (tuple, dict):
            return typing.get_args(part)[0 if typing.get_origin(part) is tuple else 1]
    return None


def _default(loc: Sequence[int | str]) -> str:
    model, name = _model(_annotation(loc[:-1])), str(loc[-1])
    fields = {field.alias or key: field for key, field in model.model_fields.items()} if model else {}
    if name not in fields or fields[name].is_required():
        return ""
    value = fields[name].default
    return ", or leave the key out" + (f" for its default {value}" if isinstance(value, (str, int, float, bool)) else "")


def _keys(model: Model) -> list[str]:
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _model(annotation: Any, through_lists: bool = True) -> Model | None:
    """The part of a recipe that a type holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if not through_lists and _is_list(annotation):
        return None
    return next((m for a in typing.get_args(annotation) if (m := _model(a, through_lists))), None)


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (tuple, list, dict) or any(map(_is_list, typing.get_args(annotation)))


def _join(above: str, name: str) -> str:
    return f"{above}.{name}" if above else name


def _value(given: Any) -> str:
    return {True: "true", False: "false", None: "null"}[given] if given is None or isinstance(given, bool) else _short.repr(given)
