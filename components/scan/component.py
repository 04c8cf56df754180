"""KFP component of the stage `scan`: declares its inputs and outputs; the work is in mugv/stages/scan.py."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def scan(
    recipe: str,
    sources: Output[Dataset],
    metrics: Output[Metrics],
    footage: Input[Dataset] | None = None,
    roots: str = "",
) -> list[int]:
    """List the video sources and give each a curation shard.

    Args:
        recipe: The resolved recipe as JSON.
        sources: `sources.parquet`: every source with its digest, shard, captions and licence.
        footage: Sample footage; none when the recipe names videos.
        metrics: What the stage measured.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.

    Returns:
        The shard numbers that `curate_shard` fans out over.
    """
    from mugv.recipe import recipe_from_json
    from mugv.stages.execute import component_main

    inputs = {} if footage is None else {"footage": footage.path}
    pages = {"metrics": metrics}
    sources.metadata.update(component_main("scan", 0, recipe, inputs, sources.path, roots, pages))
    return list(range(recipe_from_json(recipe).data.shards))
