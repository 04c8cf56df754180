"""KFP component of the stage `align`: declares its inputs and outputs; the work is in mugv/stages/align.py."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def align(
    recipe: str,
    index: int,
    latents: Input[Dataset],
    candidates: Input[Dataset],
    previous: Input[Model],
    checkpoint: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    roots: str = "",
) -> None:
    """Run one KTO or DPO round with the flow loss as regulariser.

    Args:
        recipe: The resolved recipe as JSON.
        index: Which alignment round of the recipe, from 0.
        latents: LatentSet of the flow-loss term.
        candidates: Labelled candidates.
        previous: Checkpoint that this round starts from and is compared with.
        checkpoint: DiT checkpoint folder.
        metrics: What the stage measured.
        report: What was asked for and the loss curves.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {"latents": latents.path, "candidates": candidates.path, "previous": previous.path}
    pages = {"metrics": metrics, "report": report}
    checkpoint.metadata.update(component_main("align", index, recipe, inputs, checkpoint.path, roots, pages))
