"""Slurm's own programs: ask whether it would take a script's jobs, hand them in, and start the ranks of several nodes inside a job."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mugv.durable import replace_text
from mugv.errors import UserError
from mugv.platform.launch import LaunchSpec


def present() -> bool:
    """Whether this machine can hand in jobs."""
    return shutil.which("sbatch") is not None


def here() -> bool:
    """Whether this process is in a job of several nodes."""
    return os.environ.get("SLURM_JOB_NUM_NODES", "1") != "1" and shutil.which("srun") is not None


def write_checked(script: str, output: Path) -> None:
    """Write `script` once Slurm has said that it would take its jobs, where this machine can ask. UserError with what Slurm says."""
    if present():
        _run_script(script, "--test-only")
    try:
        replace_text(output, script)
    except OSError as error:
        raise UserError(f"slurm: {output} cannot be written ({error.strerror})") from None


def submit(script: str) -> str:
    """Hand in the jobs; what the script prints: the run and a line for each job. UserError where Slurm refuses one: then none is left."""
    if not present():
        raise UserError("no sbatch on this machine: write the script with -o and run it where the cluster's jobs are submitted")
    return _run_script(script)


def _run_script(script: str, *arguments: str) -> str:
    with tempfile.TemporaryDirectory(prefix="mugv-slurm-") as folder:
        path = Path(folder) / "job.sh"
        path.write_text(script)
        done = subprocess.run(["bash", str(path), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"slurm: {_said(done.stderr)}")
    return done.stdout


def _said(text: str) -> str:
    """The lines of sbatch's errors, without its names, as one."""
    errors = [line.partition("error: ")[2] for line in text.splitlines() if "error: " in line]
    return "; ".join(dict.fromkeys(errors)) or (text.strip().splitlines() or ["the script failed and said nothing"])[-1]


def run_nodes(spec: LaunchSpec, python: str = "python") -> int:
    """Run `spec` on the nodes of this job, a launcher (mugv.ranks) on each, and wait; the largest exit code of the nodes.

    SIGTERM and SIGINT go to the ranks of all nodes, which save and stop.
    """
    job = os.environ["SLURM_JOB_ID"]
    nodes = ["srun", f"--nodes={spec.nodes}", f"--ntasks={spec.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
    launcher = ["-m", "mugv.ranks", f"--nproc={spec.processes_per_node}", f"--grace={spec.grace_seconds:g}", "-m", spec.module]
    # A session of its own: srun kills its tasks where it gets a terminal's Ctrl-C or the job's SIGTERM itself.
    process = subprocess.Popen(
        [*nodes, *shlex.split(python), *launcher, *spec.arguments], env={**os.environ, **spec.environment}, start_new_session=True
    )
    try:
        with _signals_to_steps(job):
            return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()


@contextmanager
def _signals_to_steps(job: str) -> Iterator[None]:
    """SIGTERM and SIGINT that come while the block runs are sent, once, as SIGTERM to the steps of a job, not to its batch script."""
    senders: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        if not senders:
            senders.append(subprocess.Popen(["scancel", "--signal=TERM", job]))

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        # Refused, as of a job that is being preempted, scancel asks again every few seconds: it would meet the job's next try.
        for sender in senders:
            sender.kill()
            sender.wait()
