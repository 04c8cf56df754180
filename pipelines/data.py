"""Curation alone: raw video to a ClipSet."""

from collections.abc import Collection
from typing import Any

from kfp import dsl

from mugv.recipe import Recipe, recipe_to_json
from mugv.stages.graph import build_graph
from mugv.stages.roots import Roots
from pipelines.common import Settings, add_tasks, cache_keys, cluster_name, ended, shard_pipeline

STAGES = ("sample_footage", "scan", "curate_shard", "caption", "curate")


def build_pipeline(recipe: Recipe, roots: Roots | None = None, retry: bool = False, uncached: Collection[str] = ()) -> Any:
    """A KFP pipeline of the recipe's data stages; parameters as in pipelines.train."""
    nodes = [node for node in build_graph(recipe) if node.stage in STAGES]
    settings = Settings(recipe, cache_keys(nodes, recipe, roots, uncached), retry, goal="curate")
    nested = shard_pipeline(nodes, settings)
    handed = roots.to_json() if roots else ""

    @dsl.pipeline(name=cluster_name("mugv-data", recipe), description="Raw video to a curated ClipSet.")
    def data(recipe: str = recipe_to_json(recipe), roots: str = handed) -> None:
        with ended(recipe, settings):
            add_tasks(nodes, {"recipe": recipe, "roots": roots}, settings, nested)

    return data
