"""KFP component of retraining's gate for data: the new clips against the champion's. The work is in mugv/stages/compare_data.py."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def compare_data(recipe: str, clips: Input[Dataset], comparison: Output[Artifact], report: Output[HTML], metrics: Output[Metrics]) -> str:
    """Compare new clips with those of the champion: sources, every score, tags, words; and decide whether to train on them.

    Args:
        recipe: The resolved recipe as JSON; `retrain.drift` has the limits.
        clips: The new ClipSet.
        comparison: Everything that was found, as JSON, with the decision.
        report: The same as a page.
        metrics: Distances of all columns.

    Returns:
        `go on` or `held`. It has no name: kfp's local runner cannot evaluate a condition on a named output.
    """
    from mugv.stages.compare_data import component_main

    decision, found = component_main(recipe, clips.path, comparison.path, report.path)
    for name, value in found.items():
        metrics.log_metric(name, value)
    return decision
