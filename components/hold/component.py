"""KFP component that ends a retraining which must not train. The work is in mugv/stages/compare_data.py."""

from kfp import dsl
from kfp.dsl import Artifact, Input


@dsl.component(base_image="mugv/data-python:dev", install_kfp_package=False)
def hold(comparison: Input[Artifact]) -> None:
    """Fail with the line of a comparison that holds the training back: the run is red, its report is whole.

    Args:
        comparison: Output of `compare_data`.
    """
    from mugv.stages.compare_data import hold as end

    end(comparison.path)
