"""Starts and watches the ranks of one node, one process a GPU: `python -m mugv.ranks --nproc 8 -m MODULE ARGUMENTS`.

    each rank gets   RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
    several nodes    each runs this program; which one it is say options, else PET_* (Kubeflow Trainer), else SLURM_* (srun)
    SIGTERM, SIGINT  go once to every rank, which has `--grace` seconds to write its checkpoint; then it is killed
    a rank fails     the others, which may wait for it for ever, have PATIENCE seconds to end
    exit code        0 done, 2 the user's error of any rank, 75 try again, 143 (130) stopped and saved, else 1

A module that has something to save handles the signals (mugv.stopping). A rank that dies of one had not begun, so no rank had: its
checkpoints are as they were, which counts as saved.
Standard library only: a node's launcher must not cost it the imports of its ranks.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mugv.errors import EXIT_STOPPED, EXIT_TRY_AGAIN, EXIT_USER, UserError
from mugv.processes import RUNNER

GRACE = 25.0
"""Seconds from SIGTERM to SIGKILL: Kubernetes' 30 with some for what comes after the ranks."""
PATIENCE = 5.0
PORTS = range(20_000, 32_000)
"""Below the range that the system gives to outgoing connections."""
LOOK_SECONDS = 0.05
STOPPED = (128 + signal.SIGINT, EXIT_STOPPED)


@dataclass(frozen=True)
class Place:
    """This node among the nodes of a job, and where its first rank waits for the others."""

    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    """0: any free one, which only a single node can choose."""

    def __post_init__(self) -> None:
        if not 0 <= self.node < self.nodes:
            raise UserError(f"ranks: node {self.node} is not one of {self.nodes} nodes (0 to {self.nodes - 1})")
        if self.nodes > 1 and not self.port:
            raise UserError("ranks: several nodes need the address and port of the first one: --master HOST:PORT")


def run(
    command: Sequence[str], nproc: int, place: Place = Place(), grace: float = GRACE, environment: Mapping[str, str] | None = None
) -> int:
    """Start `command` as `nproc` ranks of this node and wait for them; the exit code (see the module). `environment`: to start from;
    None: this process's."""
    base = dict(os.environ if environment is None else environment) | {RUNNER: str(os.getpid())}
    if nproc > 1:
        base.setdefault("OMP_NUM_THREADS", "1")
    ranks = _Ranks(grace)
    with ranks.signals_forwarded():
        try:
            ranks.start(command, [base | variables for variables in _variables(nproc, place)])
            return ranks.wait()
        finally:
            ranks.kill()


def _variables(nproc: int, place: Place) -> Iterator[dict[str, str]]:
    port = place.port or free_port()
    for local in range(nproc):
        yield {
            "RANK": str(place.node * nproc + local),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": str(place.nodes * nproc),
            "LOCAL_WORLD_SIZE": str(nproc),
            "MASTER_ADDR": place.address,
            "MASTER_PORT": str(port),
        }


def free_port() -> int:
    """A port of PORTS that nobody listens on now."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
    raise OSError(f"no free port among 200 of {PORTS.start} to {PORTS.stop - 1}")


class _Ranks:
    """The processes of one node. Each leads a session, so that a terminal's Ctrl-C reaches them once, through `signal`, and so that
    what they started ends with them."""

    def __init__(self, grace: float) -> None:
        self.grace, self.processes = grace, list[subprocess.Popen[bytes]]()
        self.number, self.deadline, self.late = 0, float("inf"), False

    def start(self, command: Sequence[str], environments: Sequence[dict[str, str]]) -> None:
        for environment in environments:
            self.processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
            if self.number:  # it came before this rank was there
                self.processes[-1].send_signal(self.number)

    @contextmanager
    def signals_forwarded(self) -> Iterator[None]:
        """Only the main thread gets signals; from another one the caller has to see to them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, _: object) -> None:
        if not self.number:
            self.number, self.deadline = number, min(self.deadline, time.monotonic() + self.grace)
            for process in self.processes:
                process.send_signal(number)

    def wait(self) -> int:
        while None in (codes := [process.poll() for process in self.processes]):
            failed = [i for i, code in enumerate(codes) if code not in (None, 0, *STOPPED)]
            if failed and not self.late:
                self.deadline = min(self.deadline, time.monotonic() + PATIENCE)
            if time.monotonic() >= self.deadline and not self.late:
                self.late = True
                self._say_late(failed)
                self.kill()
            time.sleep(LOOK_SECONDS)
        return self._outcome([code for code in codes if code is not None])

    def kill(self) -> None:
        for process in self.processes:
            # The session may outlive the rank that led it: what a rank started must not go on.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _say_late(self, failed: list[int]) -> None:
        waiting = [i for i, process in enumerate(self.processes) if process.poll() is None]
        why = f"local rank {failed[0]} failed" if failed else f"no checkpoint {self.grace:g} s after {signal.Signals(self.number).name}"
        print(f"ranks: {why}; local rank {', '.join(map(str, waiting))} is killed", file=sys.stderr, flush=True)

    def _outcome(self, codes: list[int]) -> int:
        if not any(codes):
            return 128 + self.number if self.number else 0
        for code in (EXIT_USER, EXIT_TRY_AGAIN):
            if code in codes:
                return code
        if self.number and -self.number in codes:
            return 128 + self.number
        if all(code in (0, *STOPPED) for code in codes):
            return max(codes)
        for local, code in enumerate(codes):
            if code not in (0, *STOPPED):
                ended = signal.Signals(-code).name if code < 0 else f"code {code}"
                print(f"ranks: local rank {local} ended with {ended}", file=sys.stderr, flush=True)
        return 1


def place_of(environment: Mapping[str, str]) -> Place:
    """Where this process stands by its launcher's variables: PET_* of Kubeflow Trainer's torch plugin, else SLURM_* of srun, else alone."""
    if environment.get("PET_NNODES", "1") != "1":
        return Place(
            _number(environment, "PET_NNODES"),
            _number(environment, "PET_NODE_RANK"),
            environment.get("PET_MASTER_ADDR", ""),
            _number(environment, "PET_MASTER_PORT"),
        )
    if environment.get("SLURM_STEP_NUM_NODES", "1") != "1":
        nodes, node = _number(environment, "SLURM_STEP_NUM_NODES"), _number(environment, "SLURM_NODEID")
        return Place(nodes, node, _first_host(environment["SLURM_STEP_NODELIST"]), _step_port(environment))
    return Place()


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise UserError(f"ranks: {name} is {text!r} and must be a number; the launcher of the nodes sets it")
    return int(text)


def _step_port(environment: Mapping[str, str]) -> int:
    """The same port on all nodes of a job step, another one for other steps."""
    step = f"{environment.get('SLURM_JOB_ID')}.{environment.get('SLURM_STEP_ID')}.{environment.get('SLURM_RESTART_COUNT', '0')}"
    return PORTS[zlib.crc32(step.encode()) % len(PORTS)]


def _first_host(nodes: str) -> str:
    """Address of the first node of a Slurm node list: its name where that resolves, else what Slurm's configuration says."""
    name = _slurm("show", "hostnames", nodes).split()[0]
    with suppress(OSError):
        return socket.gethostbyname(name)
    found = re.search(r"NodeAddr=(\S+)", _slurm("show", "node", name))
    return found[1] if found else name


def _slurm(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], check=True, capture_output=True, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mugv.ranks", description="Start and watch the ranks of one node.")
    parser.add_argument("--nproc", default=None, metavar="N", help="ranks here; auto: one a GPU; unset: PET_NPROC_PER_NODE, else 1")
    parser.add_argument("--nodes", type=int, help="nodes of the job")
    parser.add_argument("--node", type=int, help="number of this node, from 0")
    parser.add_argument("--master", metavar="HOST:PORT", help="where the first rank waits for the others")
    parser.add_argument("--grace", type=float, default=GRACE, metavar="SECONDS", help="from SIGTERM to SIGKILL")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, required=True, metavar="MODULE ...", help="what each rank runs")
    given = parser.parse_args(arguments)
    try:
        place = _given_place(given) or place_of(os.environ)
        nproc = _ranks(given.nproc or os.environ.get("PET_NPROC_PER_NODE", "1"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    return run([sys.executable, "-m", *given.module], nproc, place, given.grace)


def _given_place(given: argparse.Namespace) -> Place | None:
    if given.nodes is None:
        return None
    address, colon, port = (given.master or "").rpartition(":")
    if given.master and not (colon and port.isdigit()):
        raise UserError(f"ranks: --master {given.master} must be HOST:PORT")
    return Place(given.nodes, given.node or 0, address or "127.0.0.1", int(port or 0))


def _ranks(text: str) -> int:
    if text in ("auto", "gpu"):
        import torch

        return max(1, torch.cuda.device_count())
    if not text.isdigit() or not int(text):
        raise UserError(f"ranks: {text!r} must be the number of ranks of this node, or auto")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
