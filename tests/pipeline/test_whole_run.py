"""The README's story at micro size, every stage real: run, run again, change one threshold, kill, generate, ask where it came from.

One run is killed with SIGKILL in every training stage, at a random step, and started again each time; its losses must equal those of
an undisturbed run bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "unit"))

from processor_time import children_seconds  # noqa: E402

RECIPE = ROOT / "tests/pipeline/micro.yaml"
TRAINING = {"train_vae": 12, "pretrain-0": 8, "pretrain-1": 8, "pretrain-2": 8, "sft": 8, "align-0": 6, "align-1": 6}
"""Steps of each stage that trains."""
FOOTAGE = ("footage", "scan")


def start(state: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mugv.cli.main", *arguments, "--state", str(state)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, start_new_session=True, **streams)


def mugv(state: Path, *arguments: str, code: int = 0) -> str:
    process = start(state, *arguments)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == code, output[-4000:]
    return output


def run(state: Path, *settings: str) -> dict[str, dict]:
    """`mugv run`; returns its records by node."""
    mugv(state, "run", "--recipe", str(RECIPE), *(x for s in settings for x in ("--set", s)))
    return records(state)


def records(state: Path) -> dict[str, dict]:
    """Stage records of the newest run."""
    newest = max((state / "runs").iterdir(), key=lambda p: (p / "run.json").stat().st_mtime_ns)
    return {p.stem: json.loads(p.read_text()) for p in (newest / "stages").glob("*.json")}


def curves(stages: dict[str, dict]) -> dict[str, list[float]]:
    folders = {node: Path(stages[node]["output"]["uri"].removeprefix("file://")) for node in TRAINING}
    return {node: [json.loads(x)["loss"] for x in (f / "metrics.jsonl").read_text().splitlines()] for node, f in folders.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    state = tmp_path_factory.mktemp("whole")
    return state, run(state)


def test_every_stage_runs_and_a_version_is_registered(whole):
    state, stages = whole
    assert len(stages) == 16
    assert {s["status"] for s in stages.values()} == {"ran"}
    lengths = {node: len(curve) for node, curve in curves(stages).items()}
    assert lengths == TRAINING
    report = Path(stages["evaluate"]["output"]["uri"].removeprefix("file://")) / "report.html"
    assert "<html" in report.read_text()
    assert "champion" in mugv(state, "show", sorted((state / "runs").iterdir())[0].name)


def test_a_second_run_is_all_hits_and_fast(whole):
    state, _ = whole
    began = children_seconds()
    again = run(state)
    assert {s["status"] for s in again.values()} <= {"hit", "not needed"}
    assert children_seconds() - began < 60


def test_a_changed_threshold_reruns_curation_and_what_depends_on_it_alone(whole):
    state, stages = whole
    plan = mugv(state, "plan", "--recipe", str(RECIPE), "--set", "curation.motion.maximum=1.8")
    misses = {line.split()[0] for line in plan.splitlines() if " miss" in line}
    assert misses == {node.partition("-")[0] if "shard" in node else node for node in stages} - set(FOOTAGE)
    plan = mugv(state, "plan", "--recipe", str(RECIPE), "--set", "evaluate.seed=7")
    assert {line.split()[0] for line in plan.splitlines() if " miss" in line} == {"evaluate", "register"}


def test_generate_writes_a_video_from_the_registered_version(whole, tmp_path):
    from mugv.media.decode import read_video

    state, _ = whole
    out = tmp_path / "out.mp4"
    mugv(state, "generate", "a red circle moves left", "-o", str(out), "--model", "models:/micro/1", "--steps", "2")
    frames, fps = read_video(out)
    assert frames.shape == (17, 48, 48, 3)
    assert float(fps) == pytest.approx(12, abs=0.1)


def test_lineage_names_the_whole_way_back(whole):
    state, stages = whole
    text = mugv(state, "lineage", "models:/micro/1")
    for node in ("align-1", "encode", "curate"):
        assert stages[node]["key"][:8] in text, node


def test_promote_moves_the_champion(whole):
    state, _ = whole
    mugv(state, "lineage", "models:/micro@champion", code=2)
    mugv(state, "promote", "1", "--name", "micro")
    assert "version 1" in mugv(state, "lineage", "models:/micro@champion")


def test_a_run_killed_in_every_training_stage_ends_with_the_same_losses(whole, tmp_path_factory):
    state, plan = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("plan")
    steps = {node: random.SystemRandom().randint(1, count - 1) for node, count in TRAINING.items()}
    print("killed after", steps)
    for node, step in steps.items():
        (plan / node).write_text(str(step))
    path = os.pathsep.join((str(HERE / "killed"), str(ROOT)))
    for node in TRAINING:
        process = start(state, "run", "--recipe", str(RECIPE), KILL_PLAN=str(plan), PYTHONPATH=path)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 1, output[-4000:]
        assert f"stage {node}: its process was killed" in " ".join(output.split()), output[-4000:]
        assert not (plan / node).exists()
    assert curves(run(state)) == curves(whole[1])
