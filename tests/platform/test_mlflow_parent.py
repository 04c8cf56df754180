"""One MLflow run a pipeline run, however many processes ask for it, and how it ends; on a real MLflow database."""

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from mugv.platform import forwarder as forwarders
from mugv.platform.datasets import dataset_input
from mugv.platform.forwarder import Forwarder, left_runs
from mugv.platform.parent_run import parent_run, sent_file
from mugv.platform.records import RunRecord, write_once
from mugv.platform.stage_sender import StageSender
from mugv.platform.tracking import Tracking
from mugv.stages.finish import end, outcome

PROCESSES = 6


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}", artifacts=folder / "artifacts")
    assert tracking.experiment
    return tracking


def a_run(state: Path, run: str = "3f6c1a52-kfp", **fields: Any) -> RunRecord:
    record = RunRecord.of(state, run)
    record.update(run=run, name="tiny", started=1000.0, status="running", tracked=False, git={"commit": "c" * 40, "dirty": False}, **fields)
    return record


def a_stage(record: RunRecord, node: str = "encode", **fields: Any) -> dict[str, Any]:
    record.update_stage(node, **{"stage": "encode", "key": "k" * 64, "started": 1001.0, "status": "running", **fields})
    return record.stage(node)


def runs_of(tracking: Tracking, run: str) -> list[Any]:
    return list(tracking.client.search_runs([tracking.experiment], filter_string=f"tags.`mugv.run` = '{run}'"))


def _ask(uri: str, folder: Path, gate: Any, answers: Any) -> None:
    tracking = Tracking(uri)
    assert tracking.experiment
    gate.wait()
    answers.put(parent_run(tracking, RunRecord(folder)))


def test_first_tasks_that_begin_at_once_share_one_run(tracking: Tracking, tmp_path: Path) -> None:
    """Each pod made its own."""
    record = a_run(tmp_path)
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(PROCESSES), context.Queue()
    tasks = [context.Process(target=_ask, args=(tracking.uri, record.folder, gate, answers)) for _ in range(PROCESSES)]
    for task in tasks:
        task.start()
    found = {answers.get(timeout=120) for _ in tasks}
    for task in tasks:
        task.join()
    assert len(found) == 1
    assert [run.info.run_id for run in runs_of(tracking, record.run)] == list(found)


def test_a_lost_memory_finds_the_run_by_its_tag(tracking: Tracking, tmp_path: Path) -> None:
    record = a_run(tmp_path, "lost-memory")
    first = parent_run(tracking, record)
    sent_file(record).unlink()
    assert parent_run(tracking, record) == first
    tags = runs_of(tracking, record.run)[0].data.tags
    assert (tags["mugv.kind"], tags["mlflow.source.git.commit"]) == ("pipeline", "c" * 40)


def test_the_run_of_kubeflows_own_plugin_is_the_parent(tracking: Tracking, tmp_path: Path) -> None:
    """Its MLFLOW_RUN_ID is the run of one task; stages would have been nested one deeper in each."""
    pipeline = tracking.start_run("by the plugin", 1.0, {})
    task = tracking.start_run("its task", 1.0, {"mlflow.parentRunId": pipeline})
    record = a_run(tmp_path, "with-plugin")
    assert parent_run(tracking, record, task) == pipeline
    assert [run.info.run_id for run in runs_of(tracking, record.run)] == [pipeline]


@pytest.mark.parametrize(
    ("state", "stages", "status"),
    [
        ("SUCCEEDED", ["ran", "hit"], "finished"),
        ("COMPLETE", [], "finished"),
        ("FAILED", ["ran", "failed"], "failed"),
        ("FAILED", ["ran", "running"], "failed"),
        ("FAILED", [], "failed"),
        ("CANCELLED", ["running"], "killed"),
        ("FAILED", ["interrupted"], "killed"),
        ("FAILED", ["interrupted", "failed"], "failed"),
    ],
)
def test_a_run_ends_as_what_it_was(tracking: Tracking, tmp_path: Path, state: str, stages: list[str], status: str) -> None:
    record = a_run(tmp_path, f"ends-{state}-{'-'.join(stages)}")
    for k, found in enumerate(stages):
        a_stage(record, f"encode-{k}", status=found, error="out of memory" if found == "failed" else "")
    end(record, state, "KFP's words")
    run = record.read()
    assert (outcome(state, stages), run["status"]) == (status, status)
    assert run["error"] == ("" if status == "finished" else "out of memory" if "failed" in stages else "KFP's words")
    Forwarder(tracking, record).send()
    words = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
    found = {r.info.run_name: r.info.status for r in runs_of(tracking, record.run)}
    assert found.pop(f"tiny {record.run}") == words[status]
    # A stage whose process was killed outright must not stay RUNNING for ever.
    expected = {"ran": "FINISHED", "failed": "FAILED", "running": "KILLED", "interrupted": "KILLED"}
    assert found == {f"encode-{k}": expected[s] for k, s in enumerate(stages) if s != "hit"}


def test_a_stage_that_is_tried_again_ends_as_its_last_try(tracking: Tracking, tmp_path: Path) -> None:
    """The first failure was remembered as sent, so what the next try did never arrived."""
    record = a_run(tmp_path, "tried-again")
    parent = parent_run(tracking, record)
    for started, status in ((1.0, "failed"), (2.0, "running"), (2.0, "resumed")):
        StageSender(tracking, record, parent, a_stage(record, started=started, status=status, ended=started + 1)).send()
        (stage,) = [r for r in runs_of(tracking, record.run) if r.info.run_id != parent]
        assert stage.info.status == {"failed": "FAILED", "running": "RUNNING", "resumed": "FINISHED"}[status]
    StageSender(tracking, record, parent, a_stage(record, "scan", started=1.0)).send()
    StageSender(tracking, record, parent, a_stage(record, "scan", started=2.0, status="hit")).send()
    assert {r.info.status for r in runs_of(tracking, record.run) if r.info.run_name == "scan"} == {"FINISHED"}


def test_what_an_outage_kept_back_is_sent_by_the_next_runs_last_task_and_living_runs_are_left(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, living, forgotten, last = (a_run(tmp_path, f"outage-{name}") for name in ("kept", "living", "forgotten", "last"))
    a_stage(kept, status="ran", ended=1002.0)
    end(kept, "SUCCEEDED", "")
    a_stage(living)
    a_stage(forgotten)
    end(last, "SUCCEEDED", "")
    monkeypatch.setattr(forwarders, "_last_word", lambda run: 0.0 if run.run == forgotten.run else time.time())
    Forwarder(tracking, last, older=lambda: left_runs(tmp_path, last.run)).send()
    statuses = {run.run: {r.info.status for r in runs_of(tracking, run.run)} for run in (kept, living, forgotten, last)}
    assert statuses == {kept.run: {"FINISHED"}, living.run: set(), forgotten.run: {"KILLED"}, last.run: {"FINISHED"}}
    assert (kept.read()["tracked"], living.read()["tracked"], forgotten.read()["status"]) == (True, False, "killed")


def test_a_run_that_people_start_again_ends_anew(tracking: Tracking, tmp_path: Path) -> None:
    record = a_run(tmp_path, "started-again")
    for state, status in (("FAILED", "FAILED"), ("SUCCEEDED", "FINISHED")):
        end(record, state, "")
        Forwarder(tracking, record).send()
        assert [r.info.status for r in runs_of(tracking, record.run)] == [status]
        record.reopen()
        assert "ended" not in record.read()


def test_of_many_that_write_a_file_once_one_is_first(tmp_path: Path) -> None:
    assert [write_once(tmp_path / "a" / "x.json", {"by": k}) for k in range(3)] == [True, False, False]
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {"by": 0}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.json"]


@pytest.mark.parametrize("uri", ["file:///tmp/a%20b", "s3://bucket/key", "https://example.com/list.parquet"])
def test_a_data_set_is_described_as_mlflow_itself_describes_it(uri: str) -> None:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    md5 = "a" * 32 + ".dir"
    theirs = MetaDataset(resolve_dataset_source(uri), name="clips", digest=md5).to_dict()
    ours = dataset_input("clips", uri, md5, "training", {"dvc.md5": md5, "dvc.rev": ""})
    found = {name: getattr(ours.dataset, name) for name in ("name", "digest", "source", "source_type")}
    assert found == {name: theirs[name] for name in found}
    assert {tag.key: tag.value for tag in ours.tags} == {"mlflow.data.context": "training", "dvc.md5": md5}
