"""KFP component that ends every run of a cluster, whatever happened: the run's record and MLflow. The work is in mugv/stages/finish.py."""

from kfp import dsl
from kfp.dsl import HTML, Metrics, Output, PipelineTaskFinalStatus


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def finish(recipe: str, status: PipelineTaskFinalStatus, metrics: Output[Metrics], report: Output[HTML]) -> None:
    """End the run's record and its MLflow run as finished, failed or killed, and send what is not sent yet.

    Args:
        recipe: The resolved recipe as JSON.
        status: What KFP says of the run's tasks.
        metrics: Numbers of the whole run.
        report: The run's page: the evaluation with the gate's decision and the seconds of every stage.
    """
    from mugv.stages.finish import component_main

    component_main(recipe, status.state, status.error_message or "", {"metrics": metrics, "report": report})
