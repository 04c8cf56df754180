"""KFP component of the stage `curate`: declares its inputs and outputs; the work is in mugv/stages/curate.py."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def curate(
    recipe: str,
    parts: Input[list[Dataset]],
    clips: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
    captions: Input[list[Dataset]] | None = None,
    roots: str = "",
) -> None:
    """Merge the shards into one ClipSet: duplicates removed, train and validation split, final manifest.

    Args:
        recipe: The resolved recipe as JSON.
        parts: Outputs of `curate_shard` in the order of the shards.
        clips: The ClipSet.
        captions: Outputs of `caption` in the order of the shards; none when captions come from sidecar files alone.
        metrics: What the stage measured.
        report: The data report: what was kept and rejected, with pictures.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {f"parts/{i}": part.path for i, part in enumerate(parts)}
    inputs.update({f"captions/{i}": found.path for i, found in enumerate(captions or [])})
    pages = {"metrics": metrics, "report": report}
    clips.metadata.update(component_main("curate", 0, recipe, inputs, clips.path, roots, pages))
