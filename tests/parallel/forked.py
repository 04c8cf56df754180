"""Several processes of a worker from one import: `launch(worker, [(world, arguments), ...])` runs the rounds one after the other.

A launcher would start every process anew, and importing torch and megatron costs each more than most tests do. Here one fresh process
imports the worker and forks the ranks of every round; what they find in their environment is what it would set.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HANGS = 1800
"""Seconds after which a worker has hung; a slow machine under load needs a quarter of it."""


def launch(worker: str, rounds: Sequence[tuple[int, Sequence[object]]]) -> None:
    """Run `main(*arguments)` of a module of this folder in `world` processes, round after round; paths travel as strings."""
    jobs = json.dumps([[world, [str(a) for a in arguments]] for world, arguments in rounds])
    command = [sys.executable, __file__, worker, jobs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-4000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(rank: int, worker: str, world: int, port: int, arguments: list[str]) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    sys.modules[worker].main(*map(Path, arguments))


def main(worker: str, jobs: str) -> None:
    from torch.multiprocessing import start_processes

    importlib.import_module("torch._dynamo")  # the first optimizer of every rank would import it
    importlib.import_module(worker)
    gc.freeze()  # a rank's collections pass over what was imported here, and leave its pages shared
    for world, arguments in json.loads(jobs):
        start_processes(_rank, (worker, world, _free_port(), arguments), nprocs=world, start_method="fork")


if __name__ == "__main__":
    main(*sys.argv[1:])
