"""KFP component of the stage `train_vae`: declares its inputs and outputs; the work is in mugv/stages/train_vae.py."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def train_vae(recipe: str, clips: Input[Dataset], vae: Output[Model], roots: str = "") -> None:
    """Train the video autoencoder on the training clips.

    Args:
        recipe: The resolved recipe as JSON.
        clips: ClipSet to train on.
        vae: VAE folder: weights, configuration and training metrics.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    vae.metadata.update(component_main("train_vae", 0, recipe, {"clips": clips.path}, vae.path, roots))
