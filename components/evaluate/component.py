"""KFP component of the stage `evaluate`: declares its inputs and outputs; the work is in mugv/stages/evaluate.py."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def evaluate(
    recipe: str,
    clips: Input[Dataset],
    vae: Input[Model],
    latents: Input[Dataset],
    checkpoint: Input[Model],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    report: Output[HTML],
    roots: str = "",
) -> None:
    """Measure autoencoder and generator on held-out clips and write the report.

    Args:
        recipe: The resolved recipe as JSON.
        clips: ClipSet with the held-out clips.
        vae: Autoencoder to measure.
        latents: LatentSet of the validation loss.
        checkpoint: Generator to measure.
        evaluation: `metrics.json`, `report.html` and samples.
        metrics: What the stage measured.
        report: The evaluation report with the sample sheets.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {"clips": clips.path, "vae": vae.path, "latents": latents.path, "checkpoint": checkpoint.path}
    pages = {"metrics": metrics, "report": report}
    evaluation.metadata.update(component_main("evaluate", 0, recipe, inputs, evaluation.path, roots, pages))
