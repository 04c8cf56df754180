"""A real Slurm of two nodes on this machine, from Debian's packages: munged, slurmctld and a slurmd a node, all in one folder, as root.

Both nodes are this host under two names and ports. Without cgroups, which a container often lacks: processes are found by their parents.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
NODES = ("node1", "node2")
START_SECONDS = 60

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,defer=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MinJobAge=600
SlurmdParameters=config_overrides
JobRequeue=1
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=16000 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=node1,node2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
"""


def ready() -> str:
    """ "" where all programs are there, installed now as root if need be; else what is missing, in one line."""
    missing = sorted({package for program, package in PACKAGES.items() if _program(program) is None})
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-q"], check=False)
        subprocess.run(["apt-get", "install", "-qy", "--no-install-recommends", *missing], check=False)
        missing = sorted({package for program, package in PACKAGES.items() if _program(program) is None})
    if missing:
        return f"needs Debian's {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "needs root, which slurmd starts jobs with"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def two_nodes(folder: Path) -> Iterator[dict[str, str]]:
    """While the block runs: the environment in which sbatch and its like speak to this cluster. Raises RuntimeError with the logs where it
    does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir(exist_ok=True)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    ports = _free_ports(3)
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=socket.gethostname().partition(".")[0], ports=ports))
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in _commands(folder):
            log = (folder / f"{Path(command[0]).name}.out").open("ab")
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if command[0].endswith("munged"):
                _until((folder / "munge.socket").exists, folder)
        _until(lambda: _idle(environment), folder)
        yield environment
    finally:
        subprocess.run(["scancel", "--full", "--state=running"], env=environment, timeout=30, check=False, capture_output=True)
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _commands(folder: Path) -> list[list[str]]:
    munge = [str(_program("munged")), "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key"]
    munge += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"]
    nodes = [[str(_program("slurmd")), "-D", "-N", name] for name in NODES]
    return [munge, [str(_program("slurmctld")), "-D", "-c"], *nodes]


def _idle(environment: dict[str, str]) -> bool:
    found = subprocess.run(["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"], env=environment, capture_output=True, text=True, check=False)
    return sorted(found.stdout.split("\n"))[1:] == [f"{name} idle" for name in NODES]


def _until(done, folder: Path) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + START_SECONDS
    while not done():
        if time.monotonic() > deadline:
            logs = "\n".join(
                f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
                for path in sorted(folder.glob("*.log")) + sorted(folder.glob("*.out"))
            )
            raise RuntimeError(f"Slurm did not come up in {START_SECONDS} s\n{logs}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    why = ready()
    if why:
        sys.exit(why)
    with two_nodes(Path(sys.argv[1])) as found:
        print(f"SLURM_CONF={found['SLURM_CONF']}", flush=True)
        time.sleep(float(sys.argv[2]))
