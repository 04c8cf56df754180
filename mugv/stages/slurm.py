"""`mugv slurm`: a recipe's graph as a chain of Slurm jobs, written as one script of shell that both hands them in and is what they run.

    bash job.sh               hands in every job, each after the one before; --test-only asks Slurm whether it would take them
    job.sh --job NODE ...     inside a job: those nodes of the graph, one after the other (mugv.stages.slurm_task)
    job.sh --shards N STAGE   inside an array: every shard of a stage that is this task's

Nodes that follow one another and ask for the same are one job. A job goes back into the queue by itself when it was told to stop and has
saved (a time limit, `scancel --signal=TERM`) and when a service is away; after a user's error, and when it is cancelled, it does not.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mugv.errors import EXIT_STOPPED, EXIT_TRY_AGAIN, UserError
from mugv.recipe import Recipe, recipe_to_json
from mugv.recipe.schema import Pool
from mugv.stages.graph import SHARD_INPUTS, Node, build_graph
from mugv.stages.placement import Layout, layout_of, pool_of
from mugv.stages.slurm_task import BEGIN, FINISH

LARGEST_ARRAY = 1000
"""Tasks of an array; more shards share them (Slurm's MaxArraySize is 1001 unless set)."""
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
EXPORTED = ("MUGV_STORE", "MUGV_S3_ENDPOINT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
"""Variables that are written into the script. Keys are not: sbatch hands on the environment that they are in."""


@dataclass(frozen=True)
class Job:
    """Nodes of the graph that run in one allocation, one after the other."""

    name: str
    work: tuple[str, ...]
    """Arguments of the script inside the job."""
    options: tuple[str, ...]
    """Of sbatch."""


def jobs_of(recipe: Recipe) -> list[Job]:
    """The jobs of a recipe in order, the first with the run's record and the last with its end."""
    settings, data = recipe.resources.slurm, recipe.resources.data
    jobs: list[Job] = []
    for (stage, pool, layout), group in groupby(build_graph(recipe), lambda node: _kind(recipe, node)):
        nodes = list(group)
        options = _asks(recipe, pool, layout)
        if stage:
            tasks = min(len(nodes), LARGEST_ARRAY)
            array = f"--array=0-{tasks - 1}%{min(tasks, settings.array_tasks)}"
            jobs.append(Job(stage, ("--shards", str(len(nodes)), stage), (*options, array)))
        else:
            name = "..".join(dict.fromkeys((nodes[0].name, nodes[-1].name)))
            jobs.append(Job(name, ("--job", *(node.name for node in nodes)), options))
    first = Job(jobs[0].name, ("--job", BEGIN, *jobs[0].work[1:]), jobs[0].options)
    return [first, *jobs[1:], Job(FINISH, ("--job", FINISH), _asks(recipe, data, Layout(1, 1)))]


def _kind(recipe: Recipe, node: Node) -> tuple[str, Pool, Layout]:
    """What nodes of one job have in common: a sharded stage, or none; the pool; how many processes on how many nodes."""
    pool = pool_of(recipe, node)
    return node.stage if node.stage in SHARD_INPUTS else "", pool, layout_of(recipe, node.stage, pool)


def _asks(recipe: Recipe, pool: Pool, layout: Layout) -> tuple[str, ...]:
    settings = recipe.resources.slurm
    gpus = min(pool.gpus, layout.processes_per_node)
    partition = settings.partition if gpus else settings.data_partition or settings.partition
    named = {"partition": partition, "account": settings.account, "qos": settings.qos, "time": settings.time}
    options = [f"--{name}={value}" for name, value in named.items() if value]
    options += [f"--nodes={layout.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={_cpus(pool)}", f"--mem={_megabytes(pool.memory)}M"]
    return (*options, *([f"--gpus-per-node={gpus}"] if gpus else []), *settings.options)


def _cpus(pool: Pool) -> int:
    number = float(pool.cpu.rstrip("m")) / (1000 if pool.cpu.endswith("m") else 1)
    return max(1, math.ceil(number))


def _megabytes(memory: str) -> int:
    """Slurm's M are 1024 * 1024 bytes."""
    number, unit = memory.rstrip("EPTGMKi"), memory.lstrip("0123456789")
    scale = 1024 ** "KMGTPE".index(unit[0]) * 1024 if unit.endswith("i") else UNITS[unit]
    return max(1, math.ceil(int(number) * scale / 2**20))


def script(recipe: Recipe, state: Path) -> str:
    """The script. `state`: on a file system that every node of the cluster has under the same path."""
    settings = recipe.resources.slurm
    if settings.signal_seconds <= recipe.resources.grace_seconds:
        raise UserError(
            f"resources.slurm.signal_seconds {settings.signal_seconds} must be more than resources.grace_seconds "
            f"{recipe.resources.grace_seconds:g}: a job is told to stop that long before its limit"
        )
    variables = {"MUGV_STATE": str(state), **{name: os.environ[name] for name in EXPORTED if os.environ.get(name)}}
    values = {
        "name": recipe.name,
        "variables": "\n".join(f"export {key}={shlex.quote(value)}" for key, value in variables.items()),
        "setup": "\n  ".join(settings.setup) or ":",
        "python": settings.python,
        "restarts": str(settings.restarts),
        "again": f"{EXIT_TRY_AGAIN}|{EXIT_STOPPED}",
        "stopped": str(EXIT_STOPPED),
        "signal": str(settings.signal_seconds),
        "recipe": recipe_to_json(recipe),
        "jobs": "\n".join(_submission(job) for job in jobs_of(recipe)),
    }
    return re.sub("@([a-z]+)@", lambda found: values[found[1]], _TEMPLATE)


def _submission(job: Job) -> str:
    return shlex.join(["submit", job.name, *job.options, "--", *job.work])


_TEMPLATE = (Path(__file__).parent / "slurm_job.sh").read_text()
