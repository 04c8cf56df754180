"""The whole chain: raw video to a registered generator. How many tasks it has is the recipe's business."""

from typing import Any

from kfp import dsl

from mugv.recipe import Recipe, recipe_to_json
from mugv.stages.graph import build_graph
from pipelines.common import Settings, add_tasks, cluster_name


def build_pipeline(recipe: Recipe, keys: dict[str, str] | None = None, retries: int = 0) -> Any:
    """A KFP pipeline of every node of the recipe's graph; its one parameter `recipe` has the resolved recipe as default.

    `keys`: node name -> cache key (mugv.stages.graph.node_keys). None leaves caching to the store alone.
    """
    settings = Settings(recipe, keys, retries)

    @dsl.pipeline(name=cluster_name("mugv-train", recipe), description="Raw video to a registered video generator.")
    def train(recipe: str = recipe_to_json(recipe)) -> None:
        add_tasks(build_graph(settings.recipe), recipe, settings)

    return train
