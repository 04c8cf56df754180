"""Scheduled retraining: resolve the data, stop when nothing changed since the champion, curate, compare the clips with the champion's,
and train where the recipe lets it, else end in red with the comparison's line."""

from typing import Any

from kfp import dsl, kubernetes

from mugv.recipe import Recipe, recipe_to_json
from mugv.stages.graph import build_graph
from pipelines.common import GIT, GIT_SECRETS, Settings, add_tasks, cluster_name, ended, load_component, place, shard_pipeline
from pipelines.data import STAGES

CHANGED, GO_ON = "changed", "go on"
RESOLVED_VIDEOS = "resolved"


def build_pipeline(recipe: Recipe, repository: str = "", path: str = "videos", revision: str = "", retry: bool = False) -> Any:
    """A KFP pipeline with the parameters recipe, repository, path and revision (the arguments are their defaults).

    `repository`: DVC project that holds the videos; "" retrains on the recipe's own data. No task has a cache key here: keys
    depend on the data of the day, so the store alone decides what is found and what runs.
    """
    settings = Settings(_planned(recipe, repository), retry=retry)
    nodes = build_graph(settings.recipe)
    nested = shard_pipeline(nodes, settings)
    defaults = (recipe_to_json(recipe), repository, path if repository else "", revision)

    @dsl.pipeline(name=cluster_name("mugv-retrain", recipe), description="Train again when data or code changed.")
    def retrain(recipe: str = defaults[0], repository: str = defaults[1], path: str = defaults[2], revision: str = defaults[3]) -> None:
        with ended(recipe, settings):
            resolved = _own_task("resolve_data", settings, recipe=recipe, repository=repository, path=path, revision=revision)
            kubernetes.use_secret_as_env(resolved, GIT, {name: name for name in GIT_SECRETS}, optional=True)
            with dsl.If(resolved.outputs["Output"] == CHANGED, name="changed"):
                given = {"recipe": resolved.outputs["resolved_recipe"], "roots": resolved.outputs["roots"]}
                made = add_tasks([node for node in nodes if node.stage in STAGES], given, settings, nested)
                compared = _own_task("compare_data", settings, recipe=given["recipe"], clips=made["curate"])
                with dsl.If(compared.outputs["Output"] == GO_ON, name="go-on"):
                    add_tasks([node for node in nodes if node.stage not in STAGES], given, settings, made=made)
                with dsl.Else(name="held"):
                    _own_task("hold", settings, comparison=compared.outputs["comparison"])

    return retrain


def _own_task(component: str, settings: Settings, **arguments: Any) -> Any:
    """A task of this pipeline that is no node of the graph; its result depends on the day, so KFP caches nothing."""
    task = load_component(component)(**arguments)
    resources = settings.recipe.resources
    # What only says why the run ends must not say it again and again.
    place(task, resources.data.model_copy(update={"gpus": 0}), resources.image_data, settings.retry and component != "hold")
    return task.set_display_name(component.replace("_", "-")).set_caching_options(False)


def _planned(recipe: Recipe, repository: str) -> Recipe:
    """The recipe whose graph the training has: videos that come from a repository leave no sample footage to write."""
    if not repository or recipe.data.videos is not None:
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"videos": RESOLVED_VIDEOS})})
