"""What Kubeflow shows of a task, and pages that must never cost their stage anything."""

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kfp.dsl import HTML, ClassificationMetrics, Metrics

from mugv.evaluation.judge import Verdict
from mugv.evaluation.report import Curve
from mugv.media.shapes import Combination
from mugv.platform.records import RunRecord
from mugv.platform.system_metrics import gpu_values, sampled, system_file
from mugv.stages.base import StageContext
from mugv.stages.environment import RunEnvironment
from mugv.stages.page import Page, Table, render
from mugv.stages.pages import LARGEST_PAGE, add_pages, confusion, show
from mugv.store import Ref


@pytest.fixture
def environment(tmp_path: Path) -> RunEnvironment:
    return RunEnvironment.from_env({"MUGV_STATE": str(tmp_path / "state")})


def published(environment: RunEnvironment, folder: Path, **files: str) -> Ref:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return environment.open_store().publish(folder, "candidates/k", "k")


def artifacts(folder: Path) -> dict[str, Any]:
    kinds = {"metrics": Metrics, "report": HTML, "labels": ClassificationMetrics}
    return {name: kind(name=name, uri=str(folder / "kfp" / name)) for name, kind in kinds.items()}


def test_a_task_shows_numbers_page_and_labels(environment: RunEnvironment, tmp_path: Path) -> None:
    matrix = {"categories": ["red", "blue"], "matrix": [[3, 1], [0, 4]]}
    ref = published(environment, tmp_path / "out", report_html="<p>a page</p>", labels_json=json.dumps(matrix))
    pages = artifacts(tmp_path)
    show(pages, "candidates", {"passed": 3.0, "loss": math.nan}, ref, environment)
    assert pages["metrics"].metadata == {"passed": 3.0}, "KFP's metadata takes no nan"
    assert Path(pages["report"].path).read_text() == "<p>a page</p>"
    assert [row["row"] for row in pages["labels"].metadata["confusionMatrix"]["rows"]] == [[3, 1], [0, 4]]


def test_an_output_of_before_there_were_pages_and_one_that_nothing_needs_show_what_there_is(
    environment: RunEnvironment, tmp_path: Path
) -> None:
    for ref in (published(environment, tmp_path / "out", config_json="{}"), Ref("", "k", "")):
        pages = artifacts(tmp_path)
        show(pages, "candidates", {"passed": 3.0}, ref, environment)
        assert (pages["metrics"].metadata, pages["labels"].metadata) == ({"passed": 3.0}, {})


def test_a_page_too_large_for_kubeflow_is_named_instead(environment: RunEnvironment, tmp_path: Path) -> None:
    ref = published(environment, tmp_path / "out", report_html="x" * (LARGEST_PAGE + 1))
    show(pages := artifacts(tmp_path), "candidates", {}, ref, environment)
    assert "too large to be shown" in (page := Path(pages["report"].path).read_text())
    assert len(page) < 1000


def test_a_page_that_cannot_be_made_costs_the_stage_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ctx = cast(StageContext, SimpleNamespace(node="train_vae", out=tmp_path / "absent", work=tmp_path, inputs={}, recipe=None))
    with caplog.at_level(logging.WARNING):
        add_pages(ctx)
    assert "train_vae: its page is left out" in caplog.text


def test_what_was_asked_for_is_counted_against_what_is_seen() -> None:
    wanted = Combination("red", "circle", "left")
    categories, matrix = confusion([(wanted, Verdict("red", "bar", None))])
    at = categories.index
    counted = {(categories[i], categories[j]) for i, row in enumerate(matrix) for j, count in enumerate(row) if count}
    assert counted == {("red", "red"), ("circle", "bar"), ("left", "not sure")}
    assert matrix[at("red")][at("red")] == 1


def test_a_page_is_one_file_and_its_texts_are_escaped() -> None:
    curves = [Curve("pretrain-0", "loss", [0, 1, 2], [3.0, 2.0, 1.0])]
    counts = Table("t", "", ["", "<i>"], [["x", 3], ["y", 0]], True)
    content = Page("a <b>", "text", {"PSNR": "30 dB"}, curves=curves, tables=[counts])
    page = render(content)
    assert "a &lt;b&gt;" in page
    assert "&lt;i&gt;" in page
    assert page.count("<svg") == 1
    assert "http" not in page
    assert page == render(content)


def test_samples_of_the_machine_are_there_after_the_shortest_stage_and_go_on_with_it(tmp_path: Path) -> None:
    record = RunRecord.of(tmp_path, "r")
    for _ in range(2):
        with sampled(record, "scan"):
            pass
    lines = [json.loads(line) for line in system_file(record, "scan").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert len(lines) >= 2
    assert 0 < lines[-1]["process_memory_usage_megabytes"] < lines[-1]["system_memory_usage_megabytes"] * 2


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    found = gpu_values("0, 97, 70123, 612.5\n1, [N/A], 12, [N/A]\n")
    expected = {"gpu_0_utilization_percentage": 97.0, "gpu_0_memory_usage_megabytes": 70123.0, "gpu_0_power_usage_watts": 612.5}
    assert found == {**expected, "gpu_1_memory_usage_megabytes": 12.0}
