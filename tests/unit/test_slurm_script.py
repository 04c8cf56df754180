"""The script of `mugv slurm` and what of a recipe goes into it; tests/slurm runs it on a real Slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mugv.errors import UserError
from mugv.recipe import load_recipe
from mugv.recipe.schema import Pool
from mugv.stages.slurm import _cpus, _megabytes, jobs_of, script

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "tests" / "pipeline" / "micro.yaml"


def recipe(*changes: str):
    return load_recipe(MICRO, changes)


def test_stages_of_one_size_share_a_job_and_training_takes_its_nodes():
    jobs = jobs_of(
        recipe("parallel.world=4", "resources.gpus_per_node=2", "resources.train={gpus: 2}", "resources.slurm.data_partition=cpu")
    )
    assert [job.name for job in jobs][:3] == ["footage..scan", "curate_shard", "curate"]
    assert jobs[0].work == ("--job", "begin", "footage", "scan")
    (training,) = [job for job in jobs if "sft" in job.work]
    assert {"--nodes=2", "--gpus-per-node=2", "--ntasks-per-node=1"} <= set(training.options)
    (drawn,) = [job for job in jobs if "candidates" in job.work]
    assert {"--nodes=1", "--gpus-per-node=1"} <= set(drawn.options)
    assert "--partition=cpu" in jobs[0].options
    assert "--partition=cpu" not in training.options
    assert jobs[-1].work == ("--job", "finish")


def test_ten_thousand_shards_fit_into_an_array():
    (shards,) = [job for job in jobs_of(recipe("data.shards=10000", "resources.slurm.array_tasks=50")) if job.name == "curate_shard"]
    assert "--array=0-999%50" in shards.options
    assert shards.work == ("--shards", "10000", "curate_shard")


@pytest.mark.parametrize(("memory", "megabytes"), [("8G", 7630), ("512Mi", 512), ("1Gi", 1024), ("1000", 1), ("2Ti", 2 * 1024**2)])
def test_memory_of_kubernetes_is_memory_of_slurm(memory, megabytes):
    assert _megabytes(memory) == megabytes


def test_parts_of_a_processor_are_whole_ones():
    assert [_cpus(Pool(cpu=text)) for text in ("500m", "1.5", "96")] == [1, 2, 96]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("resources.slurm.time='soon'", r"resources\.slurm\.time: must be a time limit as Slurm writes it"),
        ("resources.slurm.time='0'", r"resources\.slurm\.time: must be a time limit"),
        ("resources.slurm.time=12:00:00", r"resources\.slurm\.time: must be in quotes"),
        ("resources.slurm.partition='a b'", r"resources\.slurm\.partition: must be a name that Slurm knows"),
        ("resources.slurm.account='$(id)'", r"resources\.slurm\.account: must be a name"),
        ("resources.slurm.options=['--nodes=3']", r"is set by `mugv slurm`"),
        ("resources.slurm.options=['-x; rm']", r"must be one option of sbatch"),
        ("resources.slurm.setup=['']", r"must be one line of shell"),
        ("resources.slurm.restarts=-1", r"resources\.slurm\.restarts"),
    ],
)
def test_what_slurm_would_not_understand_is_refused_by_its_key(change, message):
    with pytest.raises(UserError, match=message):
        recipe(change)


def test_a_job_has_time_to_save_before_its_limit():
    with pytest.raises(UserError, match=r"signal_seconds 120 must be more than resources\.grace_seconds 500"):
        script(recipe("resources.grace_seconds=500"), Path("/state"))


def test_the_script_is_shell_and_holds_no_mark_of_its_template():
    text = script(recipe("name=it is"), Path("/a state"))
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    assert "export MUGV_STATE='/a state'" in text
    assert re.findall("@[a-z]+@", text) == []


def test_a_machine_without_slurm_says_so(tmp_path):
    command = [sys.executable, "-m", "mugv.cli.main", "slurm", "--recipe", str(MICRO), "--state", str(tmp_path / "s")]
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = lambda *options: subprocess.run([*command, *options], env=environment, capture_output=True, text=True, cwd=ROOT)  # noqa: E731
    done = run("--submit")
    assert (done.returncode, done.stderr.startswith("error: no sbatch on this machine: write the script with -o")) == (2, True)
    done = run("-o", str(tmp_path / "job.sh"))
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'job.sh'}; not checked: no sbatch on this machine\n")
    assert run().stderr == "error: slurm: give -o job.sh for the script, or --submit to hand the jobs in\n"
