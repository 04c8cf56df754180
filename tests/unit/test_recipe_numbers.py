"""Every number of a recipe has its range: one that has none trains away from the data, or not at all, without a word."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from mugv.recipe import Recipe
from mugv.recipe.curation import Curation

MAY_BE_NEGATIVE = {
    "Expansion.noise_db",  # decibels
    "Sampler.guidance",  # under 0 the sampler goes away from the prompt
    "Gate.minimum",  # metrics have their own ranges
    "Gate.maximum",
    # Scores have their own ranges; each kind of score is a class of its own.
    *(
        f"{score}.{end}"
        for score in ("Range", "Share", "Levels", "Sharpness", "Motion", "Border", "OverlaidText", "Aesthetic")
        for end in ("minimum", "maximum")
    ),
}


def parts(annotation: Any = Recipe, seen: set[type] | None = None) -> Iterator[type[BaseModel]]:
    """Every pydantic model that a recipe is made of."""
    seen = set() if seen is None else seen
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation not in seen:
            seen.add(annotation)
            yield annotation
            for field in annotation.model_fields.values():
                yield from parts(field.annotation, seen)
        return
    for inner in get_args(annotation):
        yield from parts(inner, seen)


def filled(annotation: Any, number: float) -> Any:
    """A value of the annotation's shape with `number` wherever a number stands; None where it holds none."""
    if annotation in (int, float):
        return number
    inner = [filled(x, number) for x in get_args(annotation) if x is not Ellipsis]
    if not any(x is not None for x in inner):
        return None
    kind = getattr(annotation, "__origin__", None)
    if kind is tuple:
        return inner
    if kind is dict:
        return {(3 if get_args(annotation)[0] is not str else "x"): inner[-1]}
    return next(x for x in inner if x is not None)


def numbers() -> list[tuple[type[BaseModel], str]]:
    return [(part, name) for part in parts() for name, field in part.model_fields.items() if filled(field.annotation, 0) is not None]


def refused(part: type[BaseModel], name: str, number: float) -> bool:
    """Whether the part's own error names the key. Other keys may be missing here."""
    field = part.model_fields[name]
    key = field.alias or name
    try:
        part.model_validate({key: filled(field.annotation, number)})
    except ValidationError as error:
        return any(each["loc"] and each["loc"][0] == key for each in error.errors())
    return False


def test_the_walk_finds_the_numbers_of_every_section() -> None:
    found = {f"{part.__name__}.{name}" for part, name in numbers()}
    expected = {"Optimizer.learning_rate", "AlignRound.beta", "Sampler.dynamic_clamp", "VAEPhase.windows", "Encode.sizes", "ClipFormat.fps"}
    assert expected <= found
    assert len(found) > 120


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, True], ids=str)
def test_what_is_no_number_is_refused_by_every_key(number: float) -> None:
    taken = [f"{part.__name__}.{name}" for part, name in numbers() if not refused(part, name, number)]
    assert not taken, f"{number} is taken by {taken}"


def test_a_negative_number_is_refused_by_every_key_that_does_not_mean_it() -> None:
    taken = {f"{part.__name__}.{name}" for part, name in numbers() if not refused(part, name, -1)}
    assert taken <= MAY_BE_NEGATIVE, f"-1 is taken by {sorted(taken - MAY_BE_NEGATIVE)}"


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("Flow.shift_scale", 0, 1e-3),
        ("AlignRound.beta", 0, 1e-3),
        ("Optimizer.epsilon", 0, 1e-12),
        ("Optimizer.beta1", 1, 0),
        ("Optimizer.beta2", 1, 0.999),
        ("Optimizer.learning_rate", 0, 1e-9),
        ("MuonSettings.momentum", 1, 0),
        ("VAEPhase.learning_rate", 0, 1e-9),
        ("LoRA.alpha", 0, 1),
        ("Recipe.seed", 2**53 + 1, 2**53),
        ("TextEncoder.max_tokens", 1, 2),
        ("ClipFormat.fps", 0, 0.1),
        ("ClipFormat.fps", 1001, 240),
        ("ClipFormat.frames", 80_001, 129),
        ("ClipFormat.short_side", 8, 16),
        ("Motion.gap_seconds", 0, 0.01),
        ("ShotSplit.content_threshold", 0, 0.5),
        ("ShotSplit.fade_threshold", 256, 0),
    ],
)
def test_the_ends_of_a_range(key: str, wrong: float, right: float) -> None:
    part = next(part for part in parts() if part.__name__ == key.split(".")[0])
    assert refused(part, key.split(".")[1], wrong)
    assert not refused(part, key.split(".")[1], right)


@pytest.mark.parametrize(
    ("score", "limit"),
    [
        ({"minimum": 256}, "exposure"),
        ({"maximum": -1}, "contrast"),
        ({"minimum": 1.5}, "freeze"),
        ({"minimum": 2}, "border"),
        ({"maximum": -0.1}, "shake"),
    ],
)
def test_a_threshold_that_rejects_every_clip_is_refused(score: dict[str, float], limit: str) -> None:
    with pytest.raises(ValidationError, match="would reject every clip"):
        Curation.model_validate({limit: score})
    Curation.model_validate({"aesthetic": {"maximum": -1}, limit: {"minimum": 0, "maximum": 300}})
