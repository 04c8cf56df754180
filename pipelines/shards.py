"""The nested pipeline of all shards. Nested, since nothing outside of a loop can wait for a loop without collecting its outputs.

No `from __future__ import annotations` here: KFP reads the annotations of the pipelines below.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

Loop = Callable[[dict[str, Any], Any, dict[str, Any]], None]
"""Adds the loop: parameters that every task gets, the shards' numbers, and outputs by node name."""


def of_videos(loop: Loop) -> Any:
    """The shards of the user's videos."""

    @dsl.pipeline(name="shards")
    def shards(recipe: str, roots: str, indices: list[int], scan: dsl.Input[dsl.Dataset]) -> None:
        loop({"recipe": recipe, "roots": roots}, indices, {"scan": scan})

    return shards


def of_footage(loop: Loop) -> Any:
    """The shards of the sample footage."""

    @dsl.pipeline(name="shards")
    def shards(recipe: str, roots: str, indices: list[int], scan: dsl.Input[dsl.Dataset], footage: dsl.Input[dsl.Dataset]) -> None:
        loop({"recipe": recipe, "roots": roots}, indices, {"scan": scan, "footage": footage})

    return shards
