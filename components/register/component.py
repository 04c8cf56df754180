"""KFP component of the stage `register`: declares its inputs and outputs; the work is in mugv/stages/register.py."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def register(
    recipe: str,
    evaluate: Input[Artifact],
    checkpoint: Input[Model],
    vae: Input[Model],
    latents: Input[Dataset],
    clips: Input[Dataset],
    registered: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[HTML],
    roots: str = "",
) -> None:
    """Register a model version and move `champion` when the recipe's gate allows it.

    Args:
        recipe: The resolved recipe as JSON.
        evaluate: Metrics that the gate reads.
        checkpoint: Generator to register.
        vae: Autoencoder to register with it.
        latents: LatentSet, for lineage.
        clips: ClipSet, for lineage.
        registered: `registered.json`: model version, gate decision and reasons.
        metrics: What the stage measured.
        report: The evaluation report with the gate's decision.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {"evaluate": evaluate.path, "checkpoint": checkpoint.path, "vae": vae.path, "latents": latents.path, "clips": clips.path}
    pages = {"metrics": metrics, "report": report}
    registered.metadata.update(component_main("register", 0, recipe, inputs, registered.path, roots, pages))
