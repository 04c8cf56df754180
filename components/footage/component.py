"""KFP component of the stage `sample_footage`: declares its inputs and outputs; the work is in mugv/stages/sample_footage.py."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def footage(
    recipe: str,
    footage: Output[Dataset],
    metrics: Output[Metrics],
    roots: str = "",
) -> None:
    """Write the sample footage: multi-shot videos of moving shapes, with planted defects of known truth.

    Args:
        recipe: The resolved recipe as JSON.
        footage: Folder of MP4 files, `captions.jsonl` and `truth.json`.
        metrics: What the stage measured.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    pages = {"metrics": metrics}
    footage.metadata.update(component_main("sample_footage", 0, recipe, {}, footage.path, roots, pages))
