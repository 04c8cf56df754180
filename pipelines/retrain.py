"""Scheduled retraining: resolve the data first, stop when nothing changed since the champion, else run the whole chain."""

from typing import Any

from kfp import dsl

from mugv.recipe import Recipe, recipe_to_json
from mugv.stages.graph import build_graph
from pipelines.common import Settings, add_tasks, cluster_name, load_component, place

CHANGED = "changed"
RESOLVED_VIDEOS = "resolved"


def build_pipeline(recipe: Recipe, repository: str = "", path: str = "videos", revision: str = "", retries: int = 0) -> Any:
    """A KFP pipeline with the parameters recipe, repository, path and revision (the arguments are their defaults).

    `repository`: DVC project that holds the videos; "" retrains on the recipe's own data. No task has a cache key here: keys
    depend on the data of the day, so the store alone decides what is found and what runs.
    """
    settings = Settings(_planned(recipe, repository), retries=retries)
    defaults = (recipe_to_json(recipe), repository, path if repository else "", revision)

    @dsl.pipeline(name=cluster_name("mugv-retrain", recipe), description="Train again when data or code changed.")
    def retrain(recipe: str = defaults[0], repository: str = defaults[1], path: str = defaults[2], revision: str = defaults[3]) -> None:
        resolved = load_component("resolve_data")(recipe=recipe, repository=repository, path=path, revision=revision)
        resources = settings.recipe.resources
        place(resolved, resources.data, resources.image_data, settings.retries)
        resolved.set_display_name("resolve-data").set_caching_options(False)
        with dsl.If(resolved.outputs["Output"] == CHANGED, name="changed"):
            given = {"recipe": resolved.outputs["resolved_recipe"], "roots": resolved.outputs["roots"]}
            add_tasks(build_graph(settings.recipe), given, settings)

    return retrain


def _planned(recipe: Recipe, repository: str) -> Recipe:
    """The recipe whose graph the training has: videos that come from a repository leave no sample footage to write."""
    if not repository or recipe.data.videos is not None:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"videos": RESOLVED_VIDEOS})})
