"""Curation alone: raw video to a ClipSet."""

from typing import Any

from kfp import dsl

from mugv.recipe import Recipe, recipe_to_json
from mugv.stages.graph import build_graph
from pipelines.common import Settings, add_tasks, cluster_name

STAGES = ("sample_footage", "scan", "curate_shard", "caption", "curate")


def build_pipeline(recipe: Recipe, keys: dict[str, str] | None = None, retries: int = 0) -> Any:
    """A KFP pipeline of the recipe's data stages; parameters as in pipelines.train."""
    settings = Settings(recipe, keys, retries, goal="curate")
    nodes = [node for node in build_graph(recipe) if node.stage in STAGES]

    @dsl.pipeline(name=cluster_name("mugv-data", recipe), description="Raw video to a curated ClipSet.")
    def data(recipe: str = recipe_to_json(recipe)) -> None:
        add_tasks(nodes, recipe, settings)

    return data
