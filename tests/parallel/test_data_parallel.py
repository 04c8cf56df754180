"""Two processes by torchrun: data parallelism gives the same model on both ranks, and the same as one process would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("data_parallel_worker.py")


def run(world: int, folder: Path, *flags: str) -> list[dict]:
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", str(WORKER), str(folder), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    base = tmp_path_factory.mktemp("parallel")
    return {
        "one": run(1, base / "one"),
        "two": run(2, base / "two"),
        "zero": run(2, base / "zero", "--distributed-optimizer"),
    }


def test_replicas_do_not_drift(reports):
    for name in ("two", "zero"):
        first, second = reports[name]
        assert first["parameters"] == second["parameters"]


def test_two_ranks_step_like_one_process_with_both_halves(reports):
    assert reports["two"][0]["losses"] == pytest.approx(reports["one"][0]["losses"], rel=1e-5)


def test_sharded_optimizer_gives_the_same_losses(reports):
    assert reports["zero"][0]["losses"] == pytest.approx(reports["two"][0]["losses"], rel=1e-5)


def test_ranks_draw_different_noise(reports):
    first, second = reports["two"]
    assert first["noise"] != second["noise"]


def test_a_checkpoint_of_two_ranks_goes_on_with_the_same_loss(reports):
    assert reports["two"][0]["resumed"] == pytest.approx(reports["two"][0]["continued"], rel=1e-5)
