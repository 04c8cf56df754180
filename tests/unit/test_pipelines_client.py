"""What leaves this machine when a pipeline is submitted or scheduled. The server records the protocol; no cluster runs anything."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from kfp_recorder import Recorder, recording_server
from pipeline_recipes import full_recipe, minimal_recipe
from recipes import small_recipe
from test_pipelines import roots_of
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.errors import UserError
from mugv.platform.cron import check_cron
from mugv.platform.kfp_api import KfpApi
from mugv.platform.kfp_client import schedule, submit
from mugv.stages.graph import Keys, node_keys
from mugv.stages.roots import Roots
from mugv.store import DirectoryStore


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording_server() as server:
        yield server


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("KFP_ENDPOINT", "KFP_NAMESPACE", "KFP_TOKEN", "KFP_COOKIE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def tasks(spec: dict) -> dict[str, dict]:
    """Every task, of the root and inside of its exit handler, loops and conditions."""
    inner = [component["dag"] for component in spec["components"].values() if "dag" in component]
    return {name: task for dag in [spec["root"]["dag"], *inner] for name, task in dag["tasks"].items()}


def test_a_submitted_run_carries_the_whole_pipeline(recorder: Recorder) -> None:
    recipe = full_recipe()
    assert submit(recipe, recorder.url, roots_of(recipe)) == "r-1"
    run = recorder.body("runs")
    assert run["experiment_id"] == "e-1"
    assert run["display_name"] == "Micro Test-train"
    spec = run["pipeline_spec"]["pipeline_spec"]
    assert spec["pipelineInfo"]["name"] == "mugv-train-micro-test"
    assert tasks(spec)["train-vae"]["cachingOptions"]["cacheKey"] == Keys(recipe, roots_of(recipe))["train_vae"]
    assert spec["root"]["inputDefinitions"]["parameters"]["roots"]["defaultValue"] == roots_of(recipe).to_json()
    executors = run["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-train-vae"]["secretAsEnv"][0]["secretName"] == "mugv-store"


def test_kubeflow_looks_only_for_tasks_whose_output_the_store_has(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Kubeflow remembers and the store has lost was a dead end for whatever reads it."""
    recipe = small_recipe(tmp_path)
    keys, store = node_keys(recipe, Roots.of(recipe)), DirectoryStore(tmp_path / "store")
    for name in ("footage", "curate", "train_vae"):
        (tmp_path / "out").mkdir()
        stage = "sample_footage" if name == "footage" else name
        store.publish(tmp_path / "out", f"{stage}/{keys[name]}", keys[name])
    monkeypatch.setenv("MUGV_STORE", str(tmp_path / "store"))
    command = ["submit", "--recipe", str(tmp_path / "recipe.yaml"), "--endpoint", recorder.url]
    assert CliRunner().invoke(app, command).output.endswith("run r-1\n")
    dag = tasks(recorder.body("runs")["pipeline_spec"]["pipeline_spec"])
    enabled = {name for name, task in dag.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert enabled == {"footage", "curate", "train-vae"}
    recorder.calls.clear()
    monkeypatch.delenv("MUGV_STORE")
    assert "MUGV_STORE is not set here, so Kubeflow's cache cannot be compared with the store" in CliRunner().invoke(app, command).output
    dag = tasks(recorder.body("runs")["pipeline_spec"]["pipeline_spec"])
    assert not [name for name, task in dag.items() if task.get("cachingOptions", {}).get("enableCache")]


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
    assert "resolve-data" in tasks(job["pipeline_spec"]["pipeline_spec"])


@pytest.mark.parametrize(
    "good",
    [
        "0 0 3 * * *",
        "0 0 9 ? * 2-6",
        "*/30 * * * * *",
        "0 15,45 8-18/2 1 JAN,jul MON-FRI",
        "0 0 3 29 2 *",
        "0 0 3 31 2 1",
        "0 0 3 31 4/2 *",
        "0 0 3 */31 2 *",
    ],
)
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
        ("0 0 3 31 2 *", "never fires: no month of 2 has a day of 31"),
        ("0 0 3 30-31 FEB ?", "never fires"),
        ("0 0 3 31 4,6,SEP,11 *", "never fires"),
        ("0 \u0663 3 * * *", "minute"),
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


JSON, HTML = "application/json", "text/html"
PAGE = "<!DOCTYPE html><html><body>Log in to Kubeflow</body></html>"


@pytest.mark.parametrize("answered", [("GET", "healthz"), ("GET", "experiments"), ("POST", "runs")])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            (401, JSON, '{"error":"Unauthorized","code":16,"message":"Request header error"}'),
            "token is wrong or has expired: set KFP_TOKEN",
        ),
        ((401, "text/plain", "Jwt is expired"), "401 Jwt is expired; the token is wrong or has expired"),
        ((403, JSON, '{"code":7,"message":"User anna is not authorized in namespace team"}'), "403 User anna .*; check --namespace"),
        ((403, "text/plain", "RBAC: access denied"), "403 RBAC: access denied"),
        ((404, "text/plain", ""), "no KFP API v2beta1 is there"),
        ((500, JSON, '{"code":13,"message":"namespace \\"team\\" not found\\nat line 3"}'), '500 namespace "team" not found'),
        ((503, HTML, "<html>upstream</html>"), "refused the request: 503"),
        ((200, HTML, PAGE), "does not answer as the KFP API does .*; where it is a page to log in, set KFP_TOKEN"),
        ((200, JSON, "[1]"), "does not answer as the KFP API does"),
        ((302, HTML, ""), "sends to /dex/auth to log in; set KFP_TOKEN"),
    ],
)
def test_every_refusal_is_one_line_and_leaves_no_experiment(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, answered: tuple[str, str], answer: tuple[int, str, str], why: str
) -> None:
    monkeypatch.setenv("KFP_TOKEN", "secret-token")
    recorder.answers[answered] = answer
    with pytest.raises(UserError, match=why) as caught:
        submit(minimal_recipe(), recorder.url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    made = [name for method, name, _ in recorder.calls if (method, name) == ("POST", "experiments")]
    removed = [name for method, name, _ in recorder.calls if method == "DELETE"]
    assert removed == ["experiments/e-1"] * len(made)


def test_an_experiment_that_was_there_stays_when_a_run_is_refused(recorder: Recorder) -> None:
    recorder.made["experiments"] = [{"experiment_id": "e-0"}]
    recorder.answers["POST", "recurringruns"] = (403, JSON, '{"message":"no"}')
    with pytest.raises(UserError, match="403 no"):
        schedule(minimal_recipe(), recorder.url, "0 0 3 * * *")
    assert not [call for call in recorder.calls if call[0] == "DELETE"]


def test_what_is_left_behind_is_said(recorder: Recorder) -> None:
    recorder.answers["POST", "runs"] = (400, JSON, '{"message":"bad"}')
    recorder.answers["DELETE", "experiments/e-1"] = (500, JSON, "{}")
    with pytest.raises(UserError, match="400 bad; the experiment mugv that was made for it is left behind"):
        submit(minimal_recipe(), recorder.url)


def test_a_lost_answer_does_not_start_a_second_run(recorder: Recorder) -> None:
    recorder.lost.add(("POST", "recurringruns"))
    assert schedule(minimal_recipe(), recorder.url, "0 0 3 * * *") == "j-1"
    assert len(recorder.made["recurringruns"]) == 1
    assert not [call for call in recorder.calls if call[0] == "DELETE"]


def test_an_archived_experiment_is_opened_again(recorder: Recorder) -> None:
    recorder.made["experiments"] = [{"experiment_id": "e-0", "storage_state": "ARCHIVED"}]
    submit(minimal_recipe(), recorder.url)
    assert ("POST", "experiments/e-0:unarchive", {}) in recorder.calls
    assert recorder.body("runs")["experiment_id"] == "e-0"


@pytest.mark.parametrize("send", [submit, lambda recipe, url, **more: schedule(recipe, url, "0 0 3 * * *", **more)])
def test_the_user_s_namespace_and_the_task_s_account_are_passed_on(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, send) -> None:
    recorder.multi_user = True
    with pytest.raises(UserError, match="give yours with --namespace or KFP_NAMESPACE"):
        send(minimal_recipe(), recorder.url)
    send(minimal_recipe(), recorder.url, namespace="team-a")
    assert recorder.body("experiments")["namespace"] == "team-a"
    (job,) = [body for method, name, body in recorder.calls if method == "POST" and name != "experiments"]
    assert job["service_account"] == "mugv-pipeline"
    monkeypatch.setenv("KFP_NAMESPACE", "team-b")
    recorder.calls.clear()
    recorder.made.clear()
    send(minimal_recipe(), recorder.url)
    assert recorder.body("experiments")["namespace"] == "team-b"


def test_a_server_of_one_user_is_told_no_namespace(recorder: Recorder) -> None:
    """It refuses any."""
    submit(minimal_recipe(), recorder.url, namespace="kubeflow")
    assert "namespace" not in recorder.body("experiments")


def test_a_token_is_sent_and_an_expired_one_is_told_before(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def token(ends: float) -> str:
        claims = base64.urlsafe_b64encode(json.dumps({"exp": ends}).encode()).decode().rstrip("=")
        return f"e30.{claims}.c2ln"

    monkeypatch.setenv("KFP_TOKEN", token(time.time() + 60))
    submit(minimal_recipe(), recorder.url)
    assert {headers["Authorization"] for headers in recorder.headers} == {f"Bearer {os.environ['KFP_TOKEN']}"}
    recorder.calls.clear()
    monkeypatch.setenv("KFP_TOKEN", token(1_700_000_000))
    with pytest.raises(UserError, match="KFP_TOKEN: expired on 2023-11-14 22:13 UTC; set a new one"):
        submit(minimal_recipe(), recorder.url)
    assert recorder.calls == []


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(UserError, match="must not hold a user or a password; set KFP_TOKEN") as caught:
        submit(minimal_recipe(), "https://anna:geheim@kfp.example")
    assert "geheim" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = KfpApi(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=urllib3.Timeout(connect=1, read=0.3))
        began = time.monotonic()
        with pytest.raises(UserError, match="does not answer"):
            api.connect()
    assert time.monotonic() - began < 5
