"""KFP component of the stage `train_vae`: declares its inputs and outputs; the work is in mugv/stages/train_vae.py."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def train_vae(
    recipe: str,
    clips: Input[Dataset],
    vae: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    roots: str = "",
) -> None:
    """Train the video autoencoder on the training clips.

    Args:
        recipe: The resolved recipe as JSON.
        clips: ClipSet to train on.
        vae: VAE folder: weights, configuration and training metrics.
        metrics: What the stage measured.
        report: Reconstructions beside the clips, what is lost, loss curves.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    pages = {"metrics": metrics, "report": report}
    vae.metadata.update(component_main("train_vae", 0, recipe, {"clips": clips.path}, vae.path, roots, pages))
