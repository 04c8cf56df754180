"""A task and its TrainJob: what is tried again, what is not, and what is deleted. Against a scripted cluster; the real API server has
tests of its own (make test-api-server)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recipes import TREE

from mugv.errors import EXIT_USER, MissingFeatureError, UserError
from mugv.platform.launch import LaunchSpec
from mugv.platform.records import RunRecord
from mugv.platform.trainjob import Ending, JobId, train_job
from mugv.platform.trainjob_run import JobRun
from mugv.recipe import Recipe
from mugv.recipe.resources import JobSettings
from mugv.stages import many_nodes, pretrain
from mugv.stages.base import StageContext
from mugv.stages.placement import Layout
from mugv.stages.progress import ProgressWriter

JOB = train_job(LaunchSpec("m", image="i", nodes=2), JobId("run", "pretrain-0", "k"), JobSettings(), "mugv")
NAME = JOB["metadata"]["name"]
RUNS = {"jobsStatus": [{"name": "node", "ready": 1, "succeeded": 0}]}
COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}]}
FAILED = {"conditions": [{"type": "Failed", "status": "True", "reason": "JobsFailed"}]}


class Cluster:
    """Each job that is made goes through the next of `lives`; a deleted one is gone at once."""

    namespace = "mugv"

    def __init__(self, *lives: list[dict[str, Any]], code: int = 1, log: str | None = None) -> None:
        self.lives: Iterator[list[dict[str, Any]]] = iter(lives)
        self.code, self.text, self.job, self.made, self.deleted = code, log, None, 0, 0
        self.life: list[dict[str, Any]] = []

    def get(self, name: str) -> dict[str, Any] | None:
        if self.job is None:
            return None
        self.job = {**self.job, "status": self.life.pop(0) if self.life else self.job.get("status", {})}
        return self.job

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        self.made += 1
        self.life = list(next(self.lives))
        self.job = {**job, "metadata": {**job["metadata"], "uid": str(self.made), "creationTimestamp": "2999-01-01T00:00:00Z"}}
        return self.job

    def delete(self, name: str) -> None:
        self.deleted += 1
        self.job = None

    def pods(self, name: str) -> list[dict[str, Any]]:
        ended = {"name": "node", "state": {"terminated": {"exitCode": self.code, "finishedAt": "1"}}}
        labels = {"batch.kubernetes.io/job-completion-index": "0"}
        return [{"metadata": {"name": "pod", "labels": labels}, "status": {"phase": "Running", "containerStatuses": [ended]}}]

    def log(self, pod: str, container: str, seconds: int) -> str | None:
        return self.text

    def of_key(self, key: str) -> list[dict[str, Any]]:
        return []

    def workload(self, job: dict[str, Any]) -> None:
        return None

    def events(self, name: str) -> list[dict[str, Any]]:
        return []


def job_run(cluster: Any, said: list[str], **options: Any) -> JobRun:
    return JobRun(cluster, JOB, None, **{"start_deadline": 60.0, "retries": 1, "poll": 0.0, "back_off": 0.0, "say": said.append, **options})


def test_a_complete_job_is_deleted_and_its_log_is_shown_once() -> None:
    cluster, said = Cluster([{}, RUNS, RUNS, COMPLETE], log="2026-01-01T00:00:01Z step 1\n2026-01-01T00:00:02Z step 2\n"), list[str]()
    assert job_run(cluster, said).run() is None
    assert (cluster.made, cluster.deleted, cluster.job) == (1, 1, None)
    assert [line for line in said if line.startswith("step")] == ["step 1", "step 2"]


def test_without_the_right_to_read_logs_the_progress_is_shown() -> None:
    said = list[str]()
    assert job_run(Cluster([RUNS, COMPLETE]), said, progress=lambda: "pretrain-0 3/9").run() is None
    assert "pretrain-0 3/9" in said


def test_what_is_made_again_is_cleared_first_and_counted_while_nothing_is_gained() -> None:
    cluster, cleared, reached = Cluster([RUNS, FAILED], [RUNS, FAILED], [RUNS, FAILED]), list[dict[str, Any]](), iter([0, 5, 9, 9])
    ending = job_run(cluster, [], before=cleared.append, position=lambda: next(reached)).run()
    assert ending == Ending(1, "pod pod ended with exit code 1")
    assert (cluster.made, cluster.deleted, len(cleared)) == (3, 3, 3)


def test_a_user_s_error_ends_it_at_once() -> None:
    cluster = Cluster([FAILED], code=EXIT_USER)
    ending = job_run(cluster, []).run()
    assert ending is not None
    assert ending.by_user
    assert (cluster.made, cluster.job) == (1, None)


def test_a_job_that_never_starts_is_deleted_at_its_deadline() -> None:
    cluster = Cluster([{"jobsStatus": []}])
    with pytest.raises(UserError, match=r"did not start within 0\.01 s \(resources\.start_deadline\)"):
        job_run(cluster, [], start_deadline=0.01, poll=0.02).run()
    assert cluster.job is None


@pytest.mark.parametrize(("code", "left"), [(143, False), (129, True)])
def test_a_stopped_task_takes_its_job_with_it_unless_another_try_has_it(code: int, left: bool) -> None:
    class Stopped(Cluster):
        def events(self, name: str) -> list[dict[str, Any]]:
            raise SystemExit(code)

    cluster = Stopped([{}])
    with pytest.raises(SystemExit):
        job_run(cluster, []).run()
    assert (cluster.job is not None) is left


RECIPE = Recipe.model_validate(
    {
        **TREE,
        "pretrain": [{**stage, "batch": 2} for stage in TREE["pretrain"]],  # type: ignore[attr-defined]
        "sft": None,
        "align": None,
        "parallel": {"world": 2},
        "resources": {"gpus_per_node": 1},
    }
)


def context(folder: Path, inputs: dict[str, Path] | None = None) -> StageContext:
    record = RunRecord(folder / "runs" / "run")
    record.update_stage("pretrain-0", key="k" * 64)
    (folder / "work").mkdir()
    (folder / "out").mkdir()
    return StageContext(RECIPE, "pretrain-0", 0, inputs or {}, {}, folder / "out", folder / "work", ProgressWriter(record, "pretrain-0"))


def test_without_a_cluster_two_nodes_are_refused_with_what_can_run_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "MUGV_KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingFeatureError, match=r"needs 2 nodes .*`mugv submit`.*`mugv slurm`"):
        pretrain.run(context(tmp_path))


def test_an_input_that_the_other_nodes_cannot_see_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("MUGV_STATE", str(tmp_path))
    with pytest.raises(UserError, match="its input latents lies at /elsewhere, outside of the state volume"):
        many_nodes.run_job(context(tmp_path, {"latents": Path("/elsewhere")}), "pretrain", Layout(2, 1), tmp_path / "s.json", [])


def test_the_output_of_a_job_becomes_the_stage_s_and_the_job_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a killed task is not renamed while its job writes there: mugv.platform.claim looks for trainjob.json."""

    class Writing(Cluster):
        def check(self, settings: JobSettings, key: str) -> None:
            assert (settings, key) == (JobSettings(), "resources.train.job")

        def create(self, job: dict[str, Any]) -> dict[str, Any]:
            (tmp_path / "work/out/weights").write_text("made")
            remembered.append(json.loads((tmp_path / "work/trainjob.json").read_text())["metadata"]["name"])
            return super().create(job)

    remembered, cluster = list[str](), Writing([RUNS, COMPLETE])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("MUGV_STATE", str(tmp_path))
    monkeypatch.setenv("MUGV_POLL_SECONDS", "0")
    monkeypatch.setattr("mugv.platform.trainjob_api.Api", lambda: cluster)
    old = tmp_path / "work-report.json"
    old.write_text("of an earlier job")
    ctx = context(tmp_path)
    assert many_nodes.run_job(ctx, "pretrain", Layout(2, 1), tmp_path / "s.json", [old]) is None
    assert (ctx.out / "weights").read_text() == "made"
    assert not old.exists()
    assert remembered == [JobId("run", "pretrain-0", "k" * 64).name]
