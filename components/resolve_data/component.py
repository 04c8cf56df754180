"""KFP component that opens retraining: resolves the data and decides. The work is in mugv/stages/resolve_data.py."""

from kfp import dsl
from kfp.dsl import Artifact, Output, OutputPath


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def resolve_data(
    recipe: str,
    repository: str,
    path: str,
    revision: str,
    resolved: Output[Artifact],
    resolved_recipe: OutputPath(str),
    roots: OutputPath(str),
) -> str:
    """Resolve the data of a retraining and say whether anything changed since the champion.

    Args:
        recipe: The resolved recipe as JSON.
        repository: Folder or URL of a DVC project; empty to use the recipe's own data.
        path: Tracked folder of videos in the repository.
        revision: Git revision; empty for the working tree.
        resolved: The decision with its reason, data digest and DVC version.
        resolved_recipe: The recipe with the resolved data in it.
        roots: What the cache keys of that recipe start from (JSON).

    Returns:
        `changed` or `unchanged`. It has no name: kfp's local runner cannot evaluate a condition on a named output.
    """
    from mugv.stages.resolve_data import component_main

    return component_main(recipe, repository, path, revision, resolved.path, resolved_recipe, roots)
