"""KFP component of the stage `encode`: declares its inputs and outputs; the work is in mugv/stages/encode.py."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def encode(
    recipe: str,
    clips: Input[Dataset],
    vae: Input[Model],
    latents: Output[Dataset],
    metrics: Output[Metrics],
    roots: str = "",
) -> None:
    """Encode clips and captions into latents and text embeddings.

    Args:
        recipe: The resolved recipe as JSON.
        clips: ClipSet to encode.
        vae: Autoencoder that encodes it.
        latents: LatentSet: normalised latents, text embeddings and their statistics.
        metrics: What the stage measured.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    pages = {"metrics": metrics}
    latents.metadata.update(component_main("encode", 0, recipe, {"clips": clips.path, "vae": vae.path}, latents.path, roots, pages))
