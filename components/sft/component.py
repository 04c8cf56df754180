"""KFP component of the stage `sft`: declares its inputs and outputs; the work is in mugv/stages/sft.py."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def sft(
    recipe: str,
    latents: Input[Dataset],
    clips: Input[Dataset],
    previous: Input[Model],
    checkpoint: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    roots: str = "",
) -> None:
    """Fine-tune on the best clips with a decaying learning rate and average the saved checkpoints.

    Args:
        recipe: The resolved recipe as JSON.
        latents: LatentSet to train on.
        clips: ClipSet whose scores choose the best clips.
        previous: Checkpoint of the last pretraining stage.
        checkpoint: DiT checkpoint folder of the averaged weights.
        metrics: What the stage measured.
        report: What was asked for and the loss curve.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {"latents": latents.path, "clips": clips.path, "previous": previous.path}
    pages = {"metrics": metrics, "report": report}
    checkpoint.metadata.update(component_main("sft", 0, recipe, inputs, checkpoint.path, roots, pages))
