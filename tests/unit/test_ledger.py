"""What a stage used and lost, by kind, told so that a kill loses none of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mugv.cli.usage_table import run_usage
from mugv.ledger import NAME, Ledger, entries, summary
from mugv.platform.records import RunRecord
from mugv.platform.system_metrics import system_file
from mugv.recipe import load_recipe
from mugv.stages.graph import build_graph
from mugv.stages.usage import gpus_held
from mugv.training.loop import fit
from mugv.training.metrics_log import MetricsLog

ROOT = Path(__file__).resolve().parents[2]


def told(work: Path, *lines: dict[str, Any]) -> None:
    with (work / NAME).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def steps(folder: Path, count: int, seconds: float) -> None:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps({"step": k, "time": 0.0, "seconds": seconds}) + "\n" for k in range(count))
    (folder / "metrics.jsonl").write_text(text)


def test_a_training_killed_once_loses_what_it_repeats_and_the_time_it_was_down(tmp_path: Path) -> None:
    """First try: 100 s, 8 of start, 2 of waiting, killed 30 s after its checkpoint. 20 s down. Second: 60 s to the end."""
    told(
        tmp_path,
        {"event": "try", "time": 101.0, "run": "r", "started": 100.0, "gpus": 4},
        {"event": "inputs", "time": 102.0},
        {"event": "use", "time": 190.0, "cpu_seconds": 80.0, "bytes": 5e9},
        {"event": "try", "time": 220.0, "run": "r", "started": 220.0, "gpus": 4},
        {"event": "inputs", "time": 220.0},
        {"event": "use", "time": 279.0, "cpu_seconds": 50.0, "bytes": 4e9},
        {"event": "end", "time": 280.0},
    )
    steps(tmp_path / "train", 100, 1.0)
    told(
        tmp_path / "train",
        {"event": "begin", "time": 110.0, "step": 0},
        {"event": "save", "time": 170.0, "step": 56, "saves": 1, "seconds": 4.0},
        {"event": "begin", "time": 226.0, "step": 56, "repeated_steps": 30, "repeated_seconds": 30.0, "until": 200.0},
        {"event": "save", "time": 279.0, "step": 100, "saves": 1, "seconds": 3.0},
    )
    found = summary(tmp_path)
    assert found["tries"] == 2
    assert found["wall_seconds"] == 180.0
    assert found["down_seconds"] == 20.0
    assert (found["cpu_seconds"], found["peak_bytes"]) == (130.0, 5e9)
    assert found["gpu_seconds"] == 4 * 160.0, "nobody holds GPUs while nobody works"
    assert (found["waiting_seconds"], found["starting_seconds"], found["saving_seconds"]) == (2.0, 14.0, 7.0)
    assert (found["repeated_steps"], found["repeated_seconds"]) == (30, 30.0)
    assert found["useful_seconds"] == 100.0
    assert found["goodput"] == pytest.approx(100 / 180, abs=1e-3)
    assert found["other_seconds"] == pytest.approx(180 - 100 - 2 - 14 - 7 - 30 - 20)


def test_ranks_that_queue_and_fail_under_one_task_are_accounted_for(tmp_path: Path) -> None:
    """50 s in the queue, ranks that die 10 s after their checkpoint, 15 s until others run."""
    told(
        tmp_path,
        {"event": "try", "time": 0.0, "run": "r"},
        {"event": "inputs", "time": 1.0},
        {"event": "launched", "time": 51.0},
        {"event": "use", "time": 100.0, "cpu_seconds": 1.0},
        {"event": "launched", "time": 105.0},
        {"event": "end", "time": 150.0},
    )
    steps(tmp_path / "train", 60, 1.0)
    told(
        tmp_path / "train",
        {"event": "begin", "time": 55.0, "step": 0},
        {"event": "save", "time": 80.0, "step": 25, "saves": 1, "seconds": 0.0},
        {"event": "begin", "time": 110.0, "step": 25, "repeated_steps": 10, "repeated_seconds": 10.0, "until": 90.0},
        {"event": "save", "time": 148.0, "step": 60, "saves": 1, "seconds": 1.0},
    )
    found = summary(tmp_path)
    assert (found["tries"], found["wall_seconds"]) == (2, 150.0)
    assert (found["waiting_seconds"], found["starting_seconds"], found["down_seconds"]) == (51.0, 9.0, 15.0)


def test_between_two_runs_nobody_asked_for_the_stage(tmp_path: Path) -> None:
    told(
        tmp_path,
        {"event": "try", "time": 100.0, "run": "friday", "started": 100.0},
        {"event": "end", "time": 150.0},
        {"event": "try", "time": 90_000.0, "run": "monday", "started": 90_000.0},
        {"event": "end", "time": 90_010.0},
    )
    found = summary(tmp_path)
    assert (found["wall_seconds"], found["down_seconds"]) == (60.0, 0.0)
    assert "goodput" not in found, "a stage that does not train has none"


def test_damaged_lines_and_absent_ledgers_cost_nothing(tmp_path: Path) -> None:
    assert summary(tmp_path) == summary(tmp_path / "absent") == {}
    told(tmp_path, {"event": "try", "time": 1.0, "run": "r", "gpus": "many"}, {"event": "use", "time": 2.0, "cpu_seconds": None})
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"event": "use", "ti\n[1]\n\xff\xfe{"time": 5}\nnull\n{"event":"use","time":"x"}\n')
    assert summary(tmp_path)["wall_seconds"] == 1.0


def test_a_full_or_absent_disk_is_no_error_of_the_stage(tmp_path: Path) -> None:
    Ledger(tmp_path / "absent").write("try")
    Ledger(Path("/dev/full").parent / "null" / "x").write("try")
    assert not (tmp_path / "absent").exists()


def test_repeated_steps_are_counted_when_the_curve_is_rewound(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.rewind(0) == {}
    for k in range(10):
        log.write(k, seconds=0.5)
    with log.path.open("a") as file:
        file.write('{"step": 10, "ti')
    lost = log.rewind(6)
    assert (lost["repeated_steps"], lost["repeated_seconds"]) == (4, 2.0)
    assert lost["until"] == pytest.approx(time.time(), abs=60)
    assert log.rewind(6) == {}, "they are lost once"


class Sleeping:
    """A task whose steps and saves take a known time."""

    def __init__(self, step: float = 0.01, save: float = 0.05) -> None:
        self.seconds = step, save

    def train_step(self, step: int) -> dict[str, float]:
        time.sleep(self.seconds[0])
        return {"loss": 1.0}

    def save(self, folder: Path) -> None:
        time.sleep(self.seconds[1])
        (folder / "state").write_text("x")

    def load(self, folder: Path) -> None:
        time.sleep(0.02)


def test_the_loop_tells_what_its_checkpoints_cost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("try", run="r", started=time.time())
    ledger.write("inputs")
    time.sleep(0.05)
    fit(Sleeping(), tmp_path / "train", 20, 5)
    ledger.write("end")
    found = summary(tmp_path)
    assert (found["saves"], found["steps"]) == (4, 20)
    assert 0.2 <= found["saving_seconds"] < 1.0
    assert 0.2 <= found["useful_seconds"] < 1.0
    assert found["starting_seconds"] >= 0.05
    losses = sum(found[f"{kind}_seconds"] for kind in ("starting", "saving", "repeated", "waiting", "down", "other"))
    assert losses + found["useful_seconds"] == pytest.approx(found["wall_seconds"], abs=0.01)


def test_a_killed_training_leaves_what_it_lost(tmp_path: Path) -> None:
    """A process killed outright between two checkpoints, and one that goes on."""
    program = (
        "import sys, time; from pathlib import Path; from mugv.ledger import Ledger; from mugv.training.loop import fit;"
        "from tests.unit.test_ledger import Sleeping; work = Path(sys.argv[1]); ledger = Ledger(work);"
        "ledger.write('try', run='r', started=time.time()); fit(Sleeping(0.05), work / 'train', 40, 10); ledger.write('end')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    curve = tmp_path / "train" / "metrics.jsonl"
    while not curve.exists() or len(curve.read_text().splitlines()) < 15:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [line["event"] for line in entries(tmp_path)][-1] != "end"
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=60)
    found = summary(tmp_path)
    assert (found["tries"], found["steps"]) == (2, 40)
    assert 5 <= found["repeated_steps"] <= 9
    assert found["repeated_seconds"] >= 0.25
    assert found["down_seconds"] > 0
    assert found["goodput"] < 1 - found["repeated_seconds"] / found["wall_seconds"]


def test_gpus_are_told_with_how_busy_they_were(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "runs" / "r")
    file = system_file(record, "pretrain-0")
    file.parent.mkdir(parents=True)
    file.write_text('{"gpu_0_utilization_percentage": 90, "gpu_1_utilization_percentage": 70, "step": 0}\n{"gpu_0_ut\n[]\n')
    usage = {"gpus": 2.0, "gpu_seconds": 20.0, "wall_seconds": 10.0, "tries": 1.0, "cpu_seconds": 1.0, "peak_bytes": 1e9}
    record.update_stage("pretrain-0", status="ran", usage=usage)
    found = run_usage(record)
    assert found["stages"]["pretrain-0"]["gpu_utilisation"] == 0.8
    assert found["used"]["gpu_seconds"] == 20.0
    assert found["training"] is None


def test_a_run_that_was_killed_shows_what_its_work_folder_tells(tmp_path: Path) -> None:
    record = RunRecord(tmp_path / "runs" / "r")
    work = tmp_path / "work"
    (work / "train").mkdir(parents=True)
    told(
        work,
        {"event": "try", "time": 0.0, "run": "r"},
        {"event": "inputs", "time": 1.0},
        {"event": "use", "time": 10.0, "cpu_seconds": 9.0},
    )
    told(work / "train", {"event": "begin", "time": 2.0, "step": 0}, {"event": "save", "time": 9.0, "step": 5, "saves": 1, "seconds": 2.0})
    steps(work / "train", 5, 1.0)
    record.update_stage("pretrain-0", status="killed", work=str(work))
    training = run_usage(record)["training"]
    assert training["goodput"] == 0.5
    assert training["lost_seconds"] == {"starting": 1.0, "saving": 2.0, "repeated": 0.0, "waiting": 1.0, "down": 0.0, "other": 1.0}


def test_gpus_of_all_nodes_count_as_held() -> None:
    recipe = load_recipe(ROOT / "configs" / "mugv-10b.yaml")
    nodes = {node.name: node for node in build_graph(recipe)}
    assert gpus_held(recipe, nodes["pretrain-0"]) == recipe.parallel.world == 512
    assert gpus_held(recipe, nodes["evaluate"]) == 1
    assert gpus_held(recipe, nodes["curate"]) == 0
