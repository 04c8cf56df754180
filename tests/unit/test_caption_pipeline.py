"""Captions by a model inside the data pipeline, through kfp.local with the real stages and a real HTTP server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from caption_tools import WORDS, good, serving, status

from mugv.dataset.clipset import ClipSet
from mugv.media.footage import plan, write_file
from mugv.platform.local import StageFailedError, run_pipeline
from mugv.platform.records import RunRecord
from mugv.recipe import Recipe, load_recipe
from mugv.recipe.schema import SampleFootage
from mugv.stages.environment import RunEnvironment
from mugv.store import Ref

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner")


def micro(folder: Path, url: str, **caption: Any) -> Recipe:
    """The laptop's recipe on two files without sidecar captions."""
    tree = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    tree["data"] = {"shards": 2, "videos": str(folder / "videos")}
    settings = {"kind": "endpoint", "url": url, "model": "vlm", "attempts": 1, **caption}
    tree["curation"] = {**tree.get("curation", {}), "caption": settings}
    path = folder / "micro.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    (folder / "videos").mkdir()
    sample = SampleFootage(shots=8, shots_per_file=4)
    for file in plan(sample)[:2]:
        write_file(file, folder / "videos", sample)
    return folder


def run(recipe: Recipe, home: Path, name: str) -> RunRecord:
    from pipelines.data import build_pipeline

    state = home / "state"
    record = RunRecord.of(state, name)
    record.update(run=name, started=0.0, status="running")
    environment = replace(RunEnvironment.from_env({"MUGV_STATE": str(state)}), run=name, forwarded=True)
    run_pipeline(build_pipeline(recipe), record, {**environment.to_env(), "OMP_NUM_THREADS": "1"})
    return record


def statuses(record: RunRecord) -> dict[str, str]:
    return {stage["node"]: stage["status"] for stage in record.stages()}


def test_a_model_captions_every_clip_and_a_failed_server_costs_no_second_decoding(home: Path) -> None:
    with serving() as server:
        server.always = status(500)
        with pytest.raises(StageFailedError, match=r"clips wait for a caption \(500") as caught:
            run(micro(home, server.url), home, "down")
        assert caught.value.by_user
        server.always = good
        done = run(micro(home, server.url, concurrency=2), home, "up")
        assert {server.requests[-1]["model"]} == {"vlm"}
    found = statuses(done)
    assert found["caption-0"] in ("ran", "resumed")
    assert found["curate"] == "ran"
    store = RunEnvironment.from_env({"MUGV_STATE": str(home / "state")}).open_store()
    rows = ClipSet.open(store.fetch(Ref(**done.stage("curate")["output"]))).rows()
    assert rows
    assert {row.caption for row in rows} == {WORDS}
    assert {row.caption_source for row in rows} == {"vlm"}
    assert {"subject:circle", "action:move"} <= set(rows[0].tags)


def test_another_model_captions_again_and_decodes_nothing(home: Path) -> None:
    with serving() as server:
        again = statuses(run(micro(home, server.url, model="other"), home, "other"))
    assert (again["caption-0"], again["caption-1"], again["curate"]) == ("ran", "ran", "ran")
    assert {again[f"curate_shard-{k}"] for k in (0, 1)} == {"hit"}


def test_a_video_more_is_decoded_and_captioned_alone(home: Path, tmp_path: Path) -> None:
    """Its digest changes the key of every shard; what it costs is one video."""
    sample = SampleFootage(shots=12, shots_per_file=4)
    (tmp_path / "videos").mkdir()
    for file in plan(sample)[:2]:
        write_file(file, tmp_path / "videos", sample)
    with serving() as server:
        run(micro(tmp_path, server.url), tmp_path, "first")
        before = len(server.requests)
        write_file(plan(sample)[2], tmp_path / "videos", sample)
        done = run(micro(tmp_path, server.url), tmp_path, "second")
        after = len(server.requests) - before
        fresh = run(micro(tmp_path, server.url), tmp_path / "fresh", "fresh")
    metrics = [done.stage(f"curate_shard-{k}")["metrics"] for k in (0, 1)]
    assert sum(m["sources_taken_over"] for m in metrics) == 2
    assert 0 < after < before
    captions = [done.stage(f"caption-{k}")["metrics"] for k in (0, 1)]
    assert sum(m["taken_over"] for m in captions) + after == sum(m["clips"] for m in captions)
    assert done.stage("curate")["output"]["digest"] == fresh.stage("curate")["output"]["digest"]
