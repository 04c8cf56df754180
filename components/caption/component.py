"""KFP component of the stage `caption`: declares its inputs and outputs; the work is in mugv/stages/caption.py."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def caption(
    recipe: str,
    index: int,
    part: Input[Dataset],
    captions: Output[Dataset],
    metrics: Output[Metrics],
    roots: str = "",
) -> None:
    """Caption the kept clips of one shard with a vision language model, and tag them where the recipe asks a model for that.

    Args:
        recipe: The resolved recipe as JSON.
        index: Which shard, from 0.
        part: Output of `curate_shard`.
        captions: `captions.jsonl`, a line a clip.
        metrics: What the stage measured.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    pages = {"metrics": metrics}
    captions.metadata.update(component_main("caption", int(index), recipe, {"part": part.path}, captions.path, roots, pages))
