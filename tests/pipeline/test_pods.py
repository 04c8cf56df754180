"""The data stages' compiled pipeline as pods: own user, empty disk, read-only root, S3; one task is killed. All of it: make test-pods."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pods"))

from chaos import RECIPE, Killer, outputs
from place import compiled, namespace
from pod import Image, missing
from services import Services


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_compiled_data_stages_run_as_pods_and_survive_a_kill(tmp_path: Path) -> None:
    image, services = Image(tmp_path / "image").build(), Services(tmp_path / "services", tracking=False)
    try:
        cluster = namespace(image, services, tmp_path)
        killer = Killer("scan", after=0.5)
        cluster.started = killer.started
        cluster.start(compiled(RECIPE, services, tmp_path / "pipeline.yaml", "--pipeline", "data"))
        assert killer.hit
        assert 137 in cluster.codes(killer.hit)
        assert {name.partition("/")[0] for name in outputs(services)} == {"sample_footage", "scan", "curate_shard", "curate"}
    finally:
        services.stop()
