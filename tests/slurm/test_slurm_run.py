"""A whole run on a real Slurm of two nodes: told to stop, preempted, and ended with the losses of an undisturbed run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from two_nodes import ready, two_nodes

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).parent / "small.yaml"
WAIT_SECONDS = 900
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY")

pytestmark = pytest.mark.skipif(bool(ready()), reason=ready())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    with two_nodes(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**environment, "PYTHONPATH": str(ROOT)}


class Chain:
    """The jobs of one `mugv slurm --submit`."""

    def __init__(self, cluster: dict[str, str], state: Path, *changes: str) -> None:
        self.environment, self.state = cluster, state
        given = [f"resources.slurm.python={sys.executable}", *changes]
        command = ["slurm", "--recipe", str(RECIPE), "--submit", "--state", str(state), *(part for c in given for part in ("--set", c))]
        printed = self.run([sys.executable, "-m", "mugv.cli.main", *command])
        self.folder = state / "runs" / re.search(r"run (\S+)", printed)[1]
        self.jobs = {name: number for number, name in re.findall(r"job (\d+)  (\S+)", printed)}

    def run(self, command: list[str]) -> str:
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True, cwd=ROOT).stdout

    def facts(self, name: str) -> dict[str, str]:
        return dict(re.findall(r"(\S+?)=(\S*)", self.run(["scontrol", "show", "job", self.jobs[name], "-o"])))

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not done():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def until_ended(self) -> None:
        self.until(lambda: self.facts("finish")["JobState"] in ENDED)

    def until_step(self, node: str, step: int) -> None:
        path = self.folder / "progress" / f"{node}.json"
        self.until(lambda: path.exists() and json.loads(path.read_text())["done"] >= step)

    def until_queued_again(self, name: str, restarts: int) -> None:
        """Slurm starts a requeued job after two minutes; sooner when asked, but not while it still revokes the old one's credential."""
        self.until(lambda: (f := self.facts(name))["JobState"] == "PENDING" and f["Restarts"] == str(restarts))
        time.sleep(5)
        self.run(["scontrol", "update", f"JobId={self.jobs[name]}", "StartTime=now"])

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted((self.folder / "slurm").glob("*.log")))

    def log(self, name: str) -> str:
        return (self.folder / "slurm" / f"mugv-{name}-{self.jobs[name]}.log").read_text()

    def losses(self, node: str) -> list[float]:
        (curve,) = (self.state / "store" / node.partition("-")[0]).glob("*/metrics.jsonl")
        return [json.loads(line)["loss"] for line in curve.open()]


def test_stopped_and_preempted_on_two_nodes_a_run_ends_with_the_losses_of_an_undisturbed_one(cluster, tmp_path):
    chain = Chain(cluster, tmp_path / "state")
    chain.until_step("pretrain-0", 10)
    chain.run(["scancel", "--signal=TERM", chain.jobs["pretrain-0"]])
    chain.until_queued_again("pretrain-0", 1)
    assert re.search(r"stopped after step \d+ of 120; its checkpoint is kept", chain.log("pretrain-0")), chain.log("pretrain-0")
    chain.until(lambda: chain.facts("pretrain-0")["JobState"] == "RUNNING")
    chain.until_step("pretrain-0", 60)
    urgent = ["sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    chain.run(urgent)
    chain.until_queued_again("pretrain-0", 2)
    chain.until_ended()
    assert chain.facts("finish")["JobState"] == "COMPLETED", chain.logs()
    record = json.loads((chain.folder / "run.json").read_text())
    stage = json.loads((chain.folder / "stages" / "pretrain-0.json").read_text())
    assert (record["status"], stage["status"]) == ("finished", "resumed")
    # A try that the urgent job stops before its first step says so too.
    stops = [int(step) for step in re.findall(r"stopped after step (\d+) of 120", chain.log("pretrain-0"))]
    assert stops == sorted(stops)
    assert 10 <= stops[0] < 60 <= stops[1] <= stops[-1] < 120
    shown = chain.run([sys.executable, "-m", "mugv.cli.main", "show", "--state", str(chain.state)])
    assert f"run {chain.folder.name}" in shown
    disturbed = chain.losses("pretrain-0")
    for path in (chain.state / "store" / "pretrain", chain.state / "cache"):
        shutil.rmtree(path, ignore_errors=True)
    again = Chain(cluster, tmp_path / "state", "evaluate.clips=3")
    again.until_ended()
    assert again.facts("finish")["JobState"] == "COMPLETED", again.logs()
    assert again.losses("pretrain-0") == disturbed
    assert len(disturbed) == 120


def test_a_user_s_error_ends_the_run_and_is_not_tried_again(cluster, tmp_path):
    chain = Chain(cluster, tmp_path / "state", "curation.sharpness.minimum=1000000")
    chain.until_ended()
    assert (chain.facts("curate")["JobState"], chain.facts("curate")["Restarts"]) == ("FAILED", "0")
    assert chain.facts("curate")["ExitCode"] == "2:0"
    assert chain.facts("train_vae")["JobState"] == "CANCELLED"
    record = json.loads((chain.folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"].startswith("no clip was kept: blurred")


def test_a_cancelled_job_stays_cancelled(cluster, tmp_path):
    chain = Chain(cluster, tmp_path / "state")
    chain.until(lambda: chain.facts("footage..scan")["JobState"] == "RUNNING")
    chain.run(["scancel", chain.jobs["footage..scan"]])
    chain.until_ended()
    assert chain.facts("footage..scan")["JobState"] == "CANCELLED"
    assert json.loads((chain.folder / "run.json").read_text())["status"] in ("failed", "killed")


def test_what_slurm_does_not_know_is_one_line_and_leaves_nothing(cluster, tmp_path):
    said = "error: slurm: invalid partition specified: nowhere"
    for options in (["-o", str(tmp_path / "job.sh")], ["--submit"]):
        command = [sys.executable, "-m", "mugv.cli.main", "slurm", "--recipe", str(RECIPE), "--state", str(tmp_path / "state"), *options]
        done = subprocess.run([*command, "--partition", "nowhere"], env=cluster, capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stderr.startswith(said), done.stderr.count("\n")) == (2, True, 1)
    assert not (tmp_path / "job.sh").exists()
    queued = subprocess.run(["squeue", "-h", "-t", "PD,R", "-n", "mugv-footage..scan"], env=cluster, capture_output=True, text=True)
    assert queued.stdout == ""
