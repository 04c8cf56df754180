"""KFP component of the stage `curate`: declares its inputs and outputs; the work is in mugv/stages/curate.py."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def curate(
    recipe: str, scan: Input[Dataset], clips: Output[Dataset], metrics: Output[Metrics], report: Output[HTML], roots: str = ""
) -> None:
    """Merge the shards into one ClipSet: duplicates removed, train and validation split, final manifest.

    Args:
        recipe: The resolved recipe as JSON.
        scan: Output of `scan`, whose roots lead to the outputs of `curate_shard` and `caption` in the store.
        clips: The ClipSet.
        metrics: What the stage measured.
        report: The data report: what was kept and rejected, with pictures.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    pages = {"metrics": metrics, "report": report}
    clips.metadata.update(component_main("curate", 0, recipe, {"scan": scan.path}, clips.path, roots, pages))
