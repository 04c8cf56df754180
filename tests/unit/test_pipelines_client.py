"""What leaves this machine when a pipeline is submitted or scheduled. The server records the protocol; no cluster runs anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kfp_recorder import Recorder, recording_server
from pipeline_recipes import full_recipe, minimal_recipe
from test_pipelines import roots_of

from mugv.errors import UserError
from mugv.platform.kfp_client import check_cron, schedule, submit
from mugv.stages.graph import Keys


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording_server() as server:
        yield server


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_submitted_run_carries_the_whole_pipeline(recorder: Recorder) -> None:
    recipe = full_recipe()
    assert submit(recipe, recorder.url, roots_of(recipe)) == "r-1"
    run = recorder.body("runs")
    assert run["experiment_id"] == "e-1"
    assert run["display_name"] == "Micro Test-train"
    spec = run["pipeline_spec"]["pipeline_spec"]
    assert spec["pipelineInfo"]["name"] == "mugv-train-micro-test"
    assert spec["root"]["dag"]["tasks"]["train-vae"]["cachingOptions"]["cacheKey"] == Keys(recipe, roots_of(recipe))["train_vae"]
    assert spec["root"]["inputDefinitions"]["parameters"]["roots"]["defaultValue"] == roots_of(recipe).to_json()
    executors = run["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-train-vae"]["secretAsEnv"][0]["secretName"] == "mugv-store"


def test_the_endpoint_of_the_environment_is_used(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_ENDPOINT", recorder.url + "/")
    assert submit(minimal_recipe()) == "r-1"
    assert recorder.body("experiments")["display_name"] == "mugv"


def test_a_schedule_never_overlaps_itself_nor_catches_up(recorder: Recorder) -> None:
    data = {"repository": "https://example.org/data.git", "path": "videos", "revision": "main"}
    assert schedule(minimal_recipe(), recorder.url, "0 0 3 * * *", data=data) == "j-1"
    job = recorder.body("recurringruns")
    assert job["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert (job["max_concurrency"], job["no_catchup"], job["mode"]) == (1, True, "ENABLE")
    root = job["pipeline_spec"]["pipeline_spec"]["root"]
    defaults = {name: p.get("defaultValue") for name, p in root["inputDefinitions"]["parameters"].items()}
    assert {k: defaults[k] for k in data} == data
    assert "resolve-data" in root["dag"]["tasks"]


@pytest.mark.parametrize("good", ["0 0 3 * * *", "0 0 9 ? * 2-6", "*/30 * * * * *", "0 15,45 8-18/2 1 JAN,jul MON-FRI"])
def test_a_right_cron_expression_is_not_refused(good: str) -> None:
    check_cron(good)
    assert len(good.split()) == 6


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("0 3 * * *", r'expected 6 fields .* got 5; KFP counts seconds first: "0 0 3 \* \* \*"'),
        ("", "got 0"),
        ("0 0 3 * * * 2027", "got 7"),
        ("0 60 3 * * *", "minute '60' is not"),
        ("0 0 24 * * *", "hour '24' is not"),
        ("0 0 3 0 * *", "day of month '0' is not"),
        ("0 0 3 * * 5-2", "day of week '5-2' is not"),
        ("0 0 3 * FOO *", "month 'FOO' is not"),
        ("? 0 3 * * *", r"second '\?' is not"),
        ("*/0 0 3 * * *", r"second '\*/0' is not"),
        ("0 0 3-5-7 * * *", "hour '3-5-7' is not"),
    ],
)
def test_a_wrong_cron_expression_is_explained_before_anything_is_sent(bad: str, why: str, recorder: Recorder) -> None:
    with pytest.raises(UserError, match=why) as caught:
        schedule(minimal_recipe(), recorder.url, bad)
    assert "\n" not in str(caught.value)
    assert recorder.calls == []


@pytest.mark.parametrize("call", [lambda e: submit(minimal_recipe(), e), lambda e: schedule(minimal_recipe(), e, "0 0 3 * * *")])
def test_a_missing_or_wrong_endpoint_is_one_clear_line(call) -> None:
    with pytest.raises(UserError, match=r"no KFP endpoint: give --endpoint .* or set KFP_ENDPOINT"):
        call(None)
    with pytest.raises(UserError, match="expected a URL"):
        call("localhost:8888")
    with pytest.raises(UserError, match="does not answer") as caught:
        call("http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_a_refusal_by_the_server_is_one_clear_line(recorder: Recorder) -> None:
    recorder.refuse = 403
    with pytest.raises(UserError, match="refused the request: 403") as caught:
        submit(minimal_recipe(), recorder.url)
    assert "\n" not in str(caught.value)
