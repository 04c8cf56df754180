"""Retraining on data that drift: held, looked at, confirmed, trained; the whole pipeline with the real stages at micro size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.platform.local import StageFailedError
from mugv.platform.records import RunRecord
from mugv.platform.registry import Registry
from mugv.platform.tracking import Tracking
from mugv.recipe import Recipe
from mugv.recipe.retrain import Drift
from mugv.stages import compare_data
from mugv.stages.by_hand import run_by_hand
from mugv.stages.environment import RunEnvironment
from pipelines.retrain import build_pipeline
from tests.platform.test_kfp_local_pipelines import micro, run, statuses

pytestmark = pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner")


def recipe(folder: Path, videos: Path, **drift: object) -> Recipe:
    made = micro(folder, videos=str(videos))
    gate = Drift(**{"minimum_rows": 10, **drift})  # type: ignore[arg-type]
    return made.model_copy(update={"retrain": made.retrain.model_copy(update={"drift": gate})})


def footage(folder: Path) -> Path:
    """Sample footage, a shot a file, as somebody's own videos."""
    videos = folder / "videos"
    run_by_hand("footage", micro(folder, sample={"shots": 24, "shots_per_file": 1, "size": 96}), {}, videos)
    return videos


def comparison(record: RunRecord) -> dict[str, object]:
    path = next((record.folder / "kfp").rglob("compare-data/comparison"))
    return dict(json.loads(path.read_text()))


def test_drifted_data_wait_for_somebody_who_confirms_exactly_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    state = tmp_path / "state"
    videos = footage(tmp_path)
    asks = recipe(tmp_path, videos)
    first = run(build_pipeline(asks), state, "retrain-1")
    assert statuses(first)["register"] == "ran"
    assert "no champion yet" in str(comparison(first)["line"])
    _others_captions(videos)

    with pytest.raises(StageFailedError, match=r"drift against micro version 1 \(champion\): .*mugv confirm [0-9a-f]{16}") as caught:
        run(build_pipeline(asks), state, "retrain-2")
    assert caught.value.by_user
    held = RunRecord.of(state, "retrain-2")
    assert statuses(held)["curate"] == "ran"
    assert not {"train_vae", "pretrain-0", "register"} & statuses(held).keys(), "nothing is trained on them"
    found = comparison(held)
    assert found["decision"] == "held"
    assert "words" in str(found["line"])
    page = next((held.folder / "kfp").rglob("compare-data/report")).read_text()
    assert "heffalump" in page, "the report is there although the run is red"
    log = (held.folder / "kfp.log").read_text()
    assert re.search(r"the data changed since micro version 1 \(champion\); \d+ -> \d+ sources: \d+ recaptioned", log)

    digest = re.findall(r"mugv confirm ([0-9a-f]{16})", str(caught.value))[0]
    wrong = CliRunner().invoke(app, ["confirm", "0" * 16, "--state", str(state)])
    assert wrong.exit_code == 2
    assert digest in wrong.output, "what waits is named"
    assert digest in CliRunner().invoke(app, ["confirm", "--state", str(state)]).output
    assert CliRunner().invoke(app, ["confirm", digest, "--state", str(state)]).exit_code == 0
    third = run(build_pipeline(asks), state, "retrain-3")
    assert statuses(third)["register"] == "ran"
    assert "confirmed by" in str(comparison(third)["line"])
    assert [v.version for v in Registry(Tracking.of_state(state).uri).versions("micro")] == ["2", "1"]
    _without_the_champion_s_clips(asks, state, first, third)


def _without_the_champion_s_clips(asks: Recipe, state: Path, champion: RunRecord, newer: RunRecord) -> None:
    """They are gone from the store: said, and the recipe's choice counts."""
    environment = RunEnvironment.from_env({"MUGV_STATE": str(state)})
    environment.open_store().remove(f"curate/{champion.stage('curate')['key']}")
    warns = compare_data.decide(asks, newer.stage("curate")["key"], environment)
    assert warns.decision == "go on"
    assert "are gone from the store" in warns.verdict.line
    gate = asks.retrain.drift.model_copy(update={"on_missing": "confirm"})
    waits = compare_data.decide(
        asks.model_copy(update={"retrain": asks.retrain.model_copy(update={"drift": gate})}), newer.stage("curate")["key"], environment
    )
    assert (waits.decision, waits.verdict.waits) == ("held", True)
    assert "gone from the store" in waits.page()
    drifted = CliRunner().invoke(app, ["drift", "retrain-3", "--state", str(state)])
    assert drifted.exit_code == 2
    assert "are gone from the store" in drifted.output


def _others_captions(videos: Path) -> None:
    lines = [json.loads(line) for line in (videos / "captions.jsonl").read_text().splitlines()]
    text = "\n".join(json.dumps({**line, "caption": f"heffalump {line['caption']}"}) for line in lines)
    (videos / "captions.jsonl").write_text(text + "\n")
