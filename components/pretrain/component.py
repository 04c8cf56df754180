"""KFP component of the stage `pretrain`: declares its inputs and outputs; the work is in mugv/stages/pretrain.py."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def pretrain(
    recipe: str,
    index: int,
    latents: Input[Dataset],
    checkpoint: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    previous: Input[Model] | None = None,
    roots: str = "",
) -> None:
    """Run one pretraining stage of the generator's curriculum.

    Args:
        recipe: The resolved recipe as JSON.
        index: Which pretraining stage of the recipe, from 0.
        latents: LatentSet to train on.
        checkpoint: DiT checkpoint folder.
        previous: Checkpoint of the stage before; none for the first.
        metrics: What the stage measured.
        report: What was asked for and the loss curve.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {"latents": latents.path}
    if previous is not None:
        inputs["previous"] = previous.path
    pages = {"metrics": metrics, "report": report}
    checkpoint.metadata.update(component_main("pretrain", index, recipe, inputs, checkpoint.path, roots, pages))
