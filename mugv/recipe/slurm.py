"""The recipe's part under Slurm: what `mugv slurm` asks for beside the pools. Same rules as mugv.recipe.schema."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from mugv.recipe.models import ModelPart as Part
from mugv.recipe.models import NonNegative, Positive


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][-A-Za-z0-9_.,:]*", text):
        raise ValueError("must be a name that Slurm knows: letters, digits and - _ . , :")
    return text


def _time(text: str) -> str:
    if not re.fullmatch(r"(\d{1,5}-)?\d{1,5}(:\d{1,2}){0,2}", text) or not re.search(r"[1-9]", text):
        raise ValueError("must be a time limit as Slurm writes it, such as 90 (minutes), 12:00:00 or 2-00:00:00")
    return text


def _quoted(value: Any) -> Any:
    # YAML reads 12:00:00 as the number 43200.
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError('must be in quotes, such as "90" (minutes) or "12:00:00"')
    return value


def _line(text: str) -> str:
    if not text.strip() or len(text.splitlines()) != 1 or not text.isprintable():
        raise ValueError("must be one line of shell")
    return text


def _option(text: str) -> str:
    if not re.fullmatch(r"--[a-z][-a-z]*(=[^\s'\"\\$`;|&<>()]+)?", text):
        raise ValueError("must be one option of sbatch, such as --exclusive or --constraint=h100")
    if text.partition("=")[0] in OWN_OPTIONS:
        raise ValueError("is set by `mugv slurm`")
    return text


OWN_OPTIONS = frozenset(
    f"--{name}" for name in ("array", "dependency", "job-name", "nodes", "ntasks-per-node", "parsable", "requeue", "signal", "wrap")
)
SlurmName = Annotated[str, AfterValidator(_name)]
TimeLimit = Annotated[str, BeforeValidator(_quoted), AfterValidator(_time)]
Line = Annotated[str, AfterValidator(_line)]


class Slurm(Part):
    """A run as jobs of Slurm. A job asks for the processors, memory and GPUs of its stages' pool."""

    partition: SlurmName | None = None
    """Partition of the jobs; unset: the cluster's default."""
    data_partition: SlurmName | None = None
    """Partition of jobs without GPUs; unset: `partition`."""
    account: SlurmName | None = None
    """Account that the jobs are charged to; unset: the user's own."""
    qos: SlurmName | None = None
    """Quality of service; unset: the cluster's default."""
    time: TimeLimit = "24:00:00"
    """Limit of a job. One that reaches it saves, goes back into the queue and goes on."""
    restarts: NonNegative = 100
    """How often a job goes back into the queue by itself: at its time limit, when a service is away, when it is told to stop."""
    array_tasks: Positive = 100
    """Shards that run at a time."""
    setup: tuple[Line, ...] = ()
    """Lines of shell before each job's work, such as `source /shared/venv/bin/activate` or `module load cuda`."""
    python: Line = "python"
    """What starts Python in a job, such as `apptainer exec --nv /shared/train.sif python`. Stages of several nodes call srun in it."""
    options: tuple[Annotated[str, AfterValidator(_option)], ...] = ()
    """More options of sbatch for each job, such as `--exclusive`."""
    signal_seconds: Annotated[int, Field(ge=30, le=3600)] = 120
    """How long before the time limit a job is told to stop; more than `resources.grace_seconds`."""
