"""What a stage sees. A stage is a function `run(ctx) -> metrics` in mugv/stages/<stage>.py; it knows no KFP and no MLflow.

ctx.inputs[name]   folder with the files of an upstream output (read only)
ctx.out            empty folder; what is left here is published atomically under the stage's cache key
ctx.work           scratch folder of the same key: survives a kill, so checkpoints and half-done work go here
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mugv.recipe import Recipe
from mugv.stages.earlier import Earlier
from mugv.stages.roots import Roots
from mugv.store.base import Ref

Progress = Callable[[int, int, dict[str, float]], None]


def silent(done: int, total: int, values: dict[str, float]) -> None:
    """A progress callback that shows nothing."""


@dataclass(frozen=True)
class StageContext:
    """Everything that a stage may read or write."""

    recipe: Recipe
    node: str
    """Name of this node of the graph, such as `pretrain-0` or `curate_shard-1`."""
    index: int
    """Which one of a repeated stage: pretraining stage, alignment round, curation shard. 0 otherwise."""
    inputs: dict[str, Path]
    refs: dict[str, Ref]
    """URI, key and digest of each input, for lineage."""
    out: Path
    work: Path
    progress: Progress = field(default=silent)
    """progress(done, total, values): drawn as a line with rate and remaining time."""
    earlier: Earlier | None = None
    """Outputs of the same stage from other inputs; None for a stage that takes nothing over, and without a store."""
    roots: Roots | None = None
    """What the run's cache keys start from; None for a stage on plain folders."""
