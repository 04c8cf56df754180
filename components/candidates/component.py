"""KFP component of the stage `candidates`: declares its inputs and outputs; the work is in mugv/stages/candidates.py."""

from kfp import dsl
from kfp.dsl import HTML, ClassificationMetrics, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="mugv/train-python:dev", install_kfp_package=False)
def candidates(
    recipe: str,
    checkpoint: Input[Model],
    vae: Input[Model],
    latents: Input[Dataset],
    candidates: Output[Dataset],
    metrics: Output[Metrics],
    report: Output[HTML],
    labels: Output[ClassificationMetrics],
    roots: str = "",
) -> None:
    """Generate candidate clips and label them for preference training.

    Args:
        recipe: The resolved recipe as JSON.
        checkpoint: Generator that makes the candidates.
        vae: Autoencoder that decodes them.
        latents: LatentSet whose training captions are the prompts.
        candidates: Generated clips, their latents and `labels.jsonl`.
        metrics: What the stage measured.
        report: Clips with the judge's marks.
        labels: What the prompts asked for against what the judge sees.
        roots: What the cache keys start from (JSON); empty: that of the inputs, or found here.
    """
    from mugv.stages.execute import component_main

    inputs = {"checkpoint": checkpoint.path, "vae": vae.path, "latents": latents.path}
    pages = {"metrics": metrics, "report": report, "labels": labels}
    candidates.metadata.update(component_main("candidates", 0, recipe, inputs, candidates.path, roots, pages))
