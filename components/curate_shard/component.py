"""KFP component of the stage `curate_shard`: declares its inputs and outputs; the work is in mugv/stages/curate_shard.py."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def curate_shard(
    recipe: str,
    index: int,
    scan: Input[Dataset],
    part: Output[Dataset],
    metrics: Output[Metrics],
    footage: Input[Dataset] | None = None,
    roots: str = "",
) -> None:
    """Split, score, filter and cut the sources of one shard.

    Args:
        recipe: The resolved recipe as JSON.
        index: Which shard, from 0.
        scan: Output of `scan`.
        part: `clips-<index>.tar` and `part.parquet`.
        footage: Sample footage; none when the recipe names a folder of videos.
        metrics: What the stage measured.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {"scan": scan.path}
    if footage is not None:
        inputs["footage"] = footage.path
    pages = {"metrics": metrics}
    part.metadata.update(component_main("curate_shard", int(index), recipe, inputs, part.path, roots, pages))
