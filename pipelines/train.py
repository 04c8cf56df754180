"""The whole chain: raw video to a registered generator. How many tasks it has is the recipe's business."""

from collections.abc import Collection
from typing import Any

from kfp import dsl

from mugv.recipe import Recipe, recipe_to_json
from mugv.stages.graph import build_graph
from mugv.stages.roots import Roots
from pipelines.common import Settings, add_tasks, cache_keys, cluster_name, ended, shard_pipeline


def build_pipeline(recipe: Recipe, roots: Roots | None = None, retry: bool = False, uncached: Collection[str] = ()) -> Any:
    """A KFP pipeline of every node of the recipe's graph; parameters `recipe` and `roots`, by default those given here, as JSON.

    `roots`: what cache keys start from; KFP gets the keys. None: the run's first task finds them, and caching is left to the store.
    `uncached`: nodes that KFP must not look for in its cache, since their output is not in the store.
    """
    nodes = build_graph(recipe)
    settings = Settings(recipe, cache_keys(nodes, recipe, roots, uncached), retry)
    nested = shard_pipeline(nodes, settings)
    handed = roots.to_json() if roots else ""

    @dsl.pipeline(name=cluster_name("mugv-train", recipe), description="Raw video to a registered video generator.")
    def train(recipe: str = recipe_to_json(recipe), roots: str = handed) -> None:
        with ended(recipe, settings):
            add_tasks(nodes, {"recipe": recipe, "roots": roots}, settings, nested)

    return train
