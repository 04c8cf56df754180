"""KFP component of the stage `align`: declares its inputs and outputs; the work is in mugv/stages/align.py."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def align(
    recipe: str,
    index: int,
    latents: Input[Dataset],
    candidates: Input[Dataset],
    previous: Input[Model],
    checkpoint: Output[Model],
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
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {"latents": latents.path, "candidates": candidates.path, "previous": previous.path}
    checkpoint.metadata.update(component_main("align", index, recipe, inputs, checkpoint.path, roots))
