"""The record of a whole run: what it begins with, here and on a cluster.

On a cluster no process sees the whole run: whichever task comes first writes `run.json` on the state volume, the last one ends it
(mugv.stages.finish).
"""

from __future__ import annotations

import time
from typing import Any

from mugv.platform.datasets import dvc_of
from mugv.platform.lineage import git_state, image_digest
from mugv.platform.records import write_json, write_once
from mugv.recipe import Recipe, digest
from mugv.redact import redact
from mugv.stages.environment import RunEnvironment


def described(environment: RunEnvironment, recipe: Recipe, data_digest: str, tracking: str) -> dict[str, Any]:
    """What `run.json` begins with. `tracking`: MLflow's address for people."""
    return {
        "run": environment.run,
        "name": recipe.name,
        "started": time.time(),
        "status": "running",
        "recipe_digest": digest(recipe),
        "data_digest": data_digest,
        "videos": redact(recipe.data.videos) if recipe.data.videos else None,
        "dvc": dvc_of(recipe.data.videos),
        "git": git_state(),
        "image": image_digest(),
        "store": redact(environment.store),
        "tracking": tracking,
        "shards": recipe.data.shards,
        "tracked": False,
    }


def begin(environment: RunEnvironment, recipe: Recipe, data_digest: str) -> None:
    """What a task of a cluster does first: the run's record, unless another task was first. One that had ended goes on."""
    record = environment.record()
    if not (record.folder / "run.json").exists():
        write_json(record.folder / "recipe.json", recipe.model_dump(mode="json", by_alias=True))
        write_once(record.folder / "run.json", described(environment, recipe, data_digest, redact(environment.tracking_uri)))
    if record.read().get("ended"):
        record.reopen()
