"""`mugv curate` as a user runs it: a whole run on this machine, then explain and calibrate on what it made, and its mistakes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from footage_tools import CURATION, shot
from recipes import write_recipe
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.dataset.clipset import ClipSet
from mugv.media.encode import write_video
from mugv.platform.records import all_runs

pytestmark = pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner")

CURATE = f"curation={json.dumps({**CURATION, 'require_caption': False})}"


def mugv(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, options, output): three files with two shots each, one shot twice, curated by the command."""
    root = tmp_path_factory.mktemp("command")
    (root / "videos").mkdir()
    for k, numbers in enumerate([(1, 2), (3, 4), (1, 5)]):
        write_video(root / f"videos/{k}.mp4", np.concatenate([shot(n) for n in numbers]), 12)
    options = ("--recipe", write_recipe(root), "--videos", root / "videos", "--set", CURATE, "--state", root / "state")
    code, out, err = mugv("curate", *options, "--out", root / "clips")
    assert code == 0, out + err
    return root, options, out


def test_the_run_says_what_was_kept_and_rejected_and_where_it_lies(made):
    root, _, out = made
    card = json.loads((root / "clips/card.json").read_text())
    assert re.search(rf"^kept {sum(card['clips'].values())} clips, 0\.\d min \(train \d", out, re.MULTILINE)
    assert re.search(r"^rejected \d+: .*duplicate 1", out, re.MULTILINE)
    assert f"report {root}/clips/report.html" in out
    assert f"clip set {root}/clips" in out
    assert len(ClipSet.open(root / "clips").rows()) == 5
    record = next(all_runs(root / "state"))
    assert record.read()["status"] == "finished"
    assert {s["stage"] for s in record.stages()} == {"scan", "curate_shard", "curate"}


def test_a_second_run_makes_nothing_again(made):
    _, options, _ = made
    code, out, err = mugv("curate", *options, "--verbose")
    assert code == 0, err
    assert re.search(r"^curate +hit ", out, re.MULTILINE)
    assert " ran " not in out
    assert "mugv-data-test" in err, "the pipeline's log"


def test_other_thresholds_of_the_merge_decode_no_source_again(made):
    _, options, _ = made
    code, out, err = mugv("curate", *options, "--set", "curation.duplicates.distance=0")
    assert code == 0, err
    assert re.search(r"^curate +ran ", out, re.MULTILINE)
    assert re.search(r"^curate_shard-0 +hit ", out, re.MULTILINE)


def test_score_only_reports_and_drops_nothing(made):
    _, options, _ = made
    code, out, err = mugv("curate", *options, "--score-only", "--quiet")
    assert code == 0, err
    assert re.fullmatch(r"scored .*\n(  .*\n)?(rejected .*\n)?report \S+\nclip set \S+\n", out), "the result and nothing on the way"
    assert re.search(r"^scored \d+ clips, nothing dropped; thresholds would reject \d", out, re.MULTILINE)


def test_no_usable_clip_is_one_line_with_a_count_per_reason(made):
    _, options, _ = made
    code, _, err = mugv("curate", *options, "--set", "curation.sharpness.minimum=100000", "--set", "curation.sharpness.maximum=null")
    assert code == 2
    assert re.search(r"^error: no clip was kept: .*blurred \d+.*; look at the thresholds under curation$", err, re.MULTILINE)


def test_explain_reads_the_newest_set_and_takes_changes(made):
    root, _, _ = made
    code, out, err = mugv("curate", "--explain", root / "clips")
    assert code == 0, err
    kept = int(re.search(r"thresholds keep (\d+) of", out)[1])
    assert kept == 6
    assert re.search(r"^motion +0\.12 +1\.9 +\d+ +\d+ +\d+ +[\d.]+ ", out, re.MULTILINE)
    code, out, _ = mugv("curate", "--explain", "--clips", root / "clips", "--set", "curation.motion.minimum=1.8")
    assert code == 0
    assert int(re.search(r"thresholds keep (\d+) of", out)[1]) < kept
    code, out, err = mugv("curate", "--explain", "--state", root / "state")
    assert code == 0, err
    assert f"clip set {root}/state/store/curate/" in out


def test_calibrate_prints_precision_recall_and_a_recipe(made, tmp_path):
    root, _, _ = made
    rows = [r for r in ClipSet.open(root / "clips").rows(status=None) if r.motion is not None]
    below, above = sorted({r.motion for r in rows})[-2:]
    lines = [f"{r.clip_id},{'too_fast' if r.motion == above else 'keep'}" for r in rows]
    (tmp_path / "labels.csv").write_text("\n".join(["clip_id,label", *lines]))
    code, out, err = mugv("curate", "--calibrate", tmp_path / "labels.csv", "--clips", root / "clips")
    assert code == 0, err
    proposed = float(re.search(r"curation:\n  motion: \{maximum: ([\d.]+)\}", out)[1])
    assert below <= proposed < above
    assert re.search(r"^too_fast .* 1\.00 +1\.00 *$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/clips"], "a clip set goes with --explain or --calibrate"),
        (["--explain", "{root}/videos"], "not a clip set, manifest.parquet is missing"),
        (["--explain", "a", "--clips", "b"], "give one clip set"),
        (["--explain", "--state", "{root}/videos"], "no run has made a clip set yet"),
        (["--calibrate", "none.csv", "--clips", "{root}/clips"], "--calibrate none.csv: cannot be read"),
        (["--explain", "{root}/clips", "--set", "curation.sharp=1"], "curation.sharp: unknown key"),
        (["--videos", "{root}/videos", "--out", "{root}/clips"], "exists already; give a new folder"),
        (["--videos", "{root}/nowhere"], "not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(made, arguments, message):
    code, _, err = mugv("curate", *(a.format(root=made[0]) for a in arguments))
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert message in err


def test_score_only_in_a_run_that_trains_is_refused(made):
    code, _, err = mugv("run", *made[1], "--set", "curation.score_only=true")
    assert code == 2
    assert "score with `mugv curate`" in err


def test_a_set_made_before_cards_held_settings_is_explained_with_the_recipe(made, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(made[0] / "clips", old)
    card = json.loads((old / "card.json").read_text())
    del card["settings"]
    (old / "card.json").write_text(json.dumps(card))
    code, out, err = mugv("curate", "--explain", old, "--recipe", Path("configs/tiny.yaml"))
    assert code == 0, err
    assert re.search(r"^motion +0\.12 +1\.9 ", out, re.MULTILINE)
