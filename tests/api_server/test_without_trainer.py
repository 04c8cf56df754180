"""A cluster on which something is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from server import Front, kubeconfig, running

from mugv.errors import UserError
from mugv.platform.trainjob_api import Api
from mugv.recipe.resources import JobSettings


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> Any:
    """A server of its own, without definitions."""
    upstream = Front.upstream
    with running(tmp_path) as found:
        monkeypatch.setenv("MUGV_KUBECONFIG", str(kubeconfig(tmp_path / "k.yaml", found, "launcher")))
        yield
    Front.upstream = upstream


def test_a_cluster_without_the_trainer_is_told_what_to_install(bare: None) -> None:
    api = Api()
    for call in (lambda: api.check(JobSettings(), "resources.train.job"), lambda: api.get("job")):
        with pytest.raises(UserError, match=r"no trainer.kubeflow.org/v1alpha1; install Kubeflow Trainer 2\.3"):
            call()


def test_a_queue_without_kueue_is_told_before_anything_is_made(bare: None) -> None:
    with pytest.raises(UserError, match=r"resources\.train\.job\.queue gpus: Kueue is not installed on this cluster"):
        Api()._check_queue("gpus", "resources.train.job")
