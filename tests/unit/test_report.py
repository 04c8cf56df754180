"""A report that hides a number, loads from the network or lets a caption inject HTML is worse than none."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mugv.evaluation import report
from mugv.evaluation.charts import interval_bar, line_chart
from mugv.evaluation.judge import Verdict
from mugv.evaluation.report import Curve, Fact, GateDecision, Origin, ReportColumn, ReportData, Sheet, StageTime
from mugv.evaluation.scores import score_table
from mugv.figures import number
from mugv.media.shapes import Combination

ROOT = Path(__file__).parents[2]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Balance(HTMLParser):
    """Fails on a tag that is closed out of order; collects what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def data() -> ReportData:
    red = Combination("red", "bar", "up")
    verdicts = [Verdict("red", "bar", "up")] * 30 + [Verdict("red", None, "down")] * 10
    return ReportData(
        title="tiny: evaluation",
        recipe_name="tiny",
        recipe_digest="0123456789ab" + "f" * 52,
        facts=[Fact("VAE PSNR", "27.4 dB", "27.1 to 27.7, 144 held-out clips")],
        columns=[ReportColumn("t2v_seen", "T2V, combinations seen", score_table(verdicts, [red] * 40))],
        bars={"t2v_seen_colour": 0.95, "t2v_seen_shape": 0.8},
        curves=[Curve("pretrain-0", "flow_loss", list(range(300)), [1 / (k + 1) for k in range(300)])],
        sheets=[Sheet("T2V", "a <b>bold</b> caption", "samples/t2v.png")],
        clips={"kept: train": 822, "kept: validation": 151, "duplicate": 42, "too_fast": 7},
        stages=[StageTime("train_vae", 310.0), StageTime("footage", 12.0, cached=True)],
        origins=[Origin("vae", "file:///state/store/vae", "c" * 64, "d" * 64)],
        pictures={"samples/t2v.png": png()},
    )


def test_every_number_is_on_the_page(data):
    page = report.render_report(data)
    for text in ("27.4 dB", "144 held-out clips", "0.75", "0.60 to 0.86", "threshold 0.80", "10 not sure", "822", "too fast", "42"):
        assert text in page, text
    for text in ("5 min 10 s", "96%", "5 min 22 s in all", "c" * 12, "file:///state/store/vae", "0123456789ab"):
        assert text in page, text


def test_page_is_whole_and_loads_nothing(data):
    parser = Balance()
    parser.feed(report.render_report(data))
    assert parser.open == []
    assert len(parser.fetched) == 1
    assert all(uri.startswith("data:image/png;base64,") for uri in parser.fetched)


def test_text_from_outside_is_escaped(data):
    page = report.render_report(replace(data, title="<script>alert(1)</script>"))
    assert "<script>" not in page
    assert "a &lt;b&gt;bold" in page


def test_missed_and_reached_thresholds_look_different(data):
    page = report.render_report(data)
    assert 'value pass">1.00' in page
    assert 'value fail">0.75' in page


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        (None, "Not decided when this page was made"),
        (GateDecision(True, "7", []), "Version 7 is champion"),
        (GateDecision(False, "8", ["t2v_seen_shape 0.50 is under 0.75"]), "t2v_seen_shape 0.50 is under 0.75"),
    ],
)
def test_gate_is_told_as_it_is(data, gate, says):
    assert says in report.render_report(replace(data, gate=gate))


def test_without_a_judge_the_reason_stands_in_the_tables_place(data):
    page = report.render_report(replace(data, columns=[], judge_reason="Nothing was judged: no shapes here."))
    assert "Nothing was judged: no shapes here." in page
    assert "<thead><tr><th></th>" not in page


def test_an_empty_report_still_renders():
    page = report.render_report(ReportData("t", "now", "r", "d" * 64, judge_reason="no clips"))
    assert "no clips" in page


def test_a_kept_report_is_drawn_again_with_what_later_stages_know(data, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/t2v.png").write_bytes(png())
    report.save_report(data, tmp_path)
    assert report.load_report(tmp_path) == data
    assert report.redraw(tmp_path) == (tmp_path / "report.html").read_text()
    page = report.redraw(
        tmp_path, run_id="run-42", stages=[StageTime("sft", 61.0)], gate=GateDecision(True, "3", []), bars={"t2v_seen_colour": 0.97}
    )
    assert "threshold 0.80" not in page
    assert all(text in page for text in ("run-42", "threshold 0.97", "1 min 1 s", "Version 3 is champion", "27.4 dB"))


def test_curves_are_the_losses_of_a_metrics_file(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 0, "time": 1.0, "flow_loss": 2.0, "seconds": 1}\n{"step": 1, "time": 2.0, "flow_loss": 1.0, "image_flow_loss": 3.0}\n'
    )
    assert report.read_curves("sft", file) == [Curve("sft", "flow_loss", [0, 1], [2.0, 1.0]), Curve("sft", "image_flow_loss", [1], [3.0])]
    assert report.read_curves("sft", tmp_path / "absent") == []


@pytest.mark.parametrize("values", [[1.0], [3.0] * 50, [1e9, 1.0, 0.5], [math.nan, 1.0, math.inf, 2.0], [-1e-9, 1e-9], [0.0, 0.0]])
def test_any_curve_can_be_drawn(values):
    drawing = line_chart(range(len(values)), values, "loss")
    assert "nan" not in drawing
    assert "inf" not in drawing
    assert drawing.count("<path") == 2


def test_a_curve_without_finite_values_says_so():
    assert "no finite values of loss" in line_chart([0], [math.nan], "loss")


def test_long_curves_are_thinned():
    assert len(line_chart(range(100_000), [1.0 / (k + 1) for k in range(100_000)], "loss")) < 20_000


def test_interval_bar_puts_value_and_threshold_in_their_places():
    drawing = interval_bar(0.5, 0.4, 0.6, 0.75, 0.25)
    assert all(part in drawing for part in ('cx="50.0"', 'x="40.0"', 'width="20.0"', 'x1="75.0"', 'x1="25.0"', 'class="rate fail"'))


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.01234, "0.0123"), (1234.5, "1234"), (1e-5, "1.0e-05"), (250000, "2.5e+05")])
def test_numbers_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (45.4, "45 s"), (185, "3 min 5 s"), (3720, "1 h 2 min")])
def test_durations_are_readable(seconds, text):
    assert report.duration(seconds) == text


def test_readme_table_is_replaced_between_its_marks(data, tmp_path):
    folder, readme = tmp_path / "evaluation", tmp_path / "README.md"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples/preview.webp").write_bytes(b"picture")
    column = '{"title": "T2V, seen", ' + json.dumps(data.columns[0].score.to_dict())[1:]
    (folder / "metrics.json").write_text(
        f'{{"metrics": {{}}, "table": {{"t2v_seen": {column}}}, "judge_reason": "", "vae": {{}}, "size": [48, 48], "frames": 17}}'
    )
    readme.write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    command = [sys.executable, "benchmarks/readme_table.py", "--evaluation", str(folder), "--readme", str(readme)]
    environment = {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    text = readme.read_text()
    assert "| shape | **0.75** (0.60 to 0.86) | 0.33 |" in text
    assert "old" not in text
    assert (tmp_path / "docs/images/samples.webp").read_bytes() == b"picture"
    readme.write_text("no marks")
    failed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (failed.returncode, readme.read_text()) == (2, "no marks")
    assert "results:begin" in failed.stderr
