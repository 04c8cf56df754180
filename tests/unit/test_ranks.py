"""The launcher of a node's ranks: environment, one signal to each, the grace period, a rank that fails while others wait, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mugv import ranks
from mugv.errors import UserError
from mugv.processes import alive

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import json, os, signal, sys, time
rank, folder = int(os.environ["RANK"]), sys.argv[1]
seen = []
signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
def write(name, value): open(f"{folder}/{name}.new", "w").write(json.dumps(value)); os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
def until_asked(then):
    write(f"ready-{rank}", os.getpid())
    while not seen: time.sleep(0.02)
    time.sleep(0.2)
    write(f"seen-{rank}", seen)
    sys.exit(then)
"""


def node(folder: Path, body: str, *options: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Two ranks that run `body`, started as on a cluster."""
    (folder / "rank_program.py").write_text(RANK + body)
    command = [sys.executable, "-m", "mugv.ranks", "--nproc", "2", *options, "-m", "rank_program", str(folder)]
    variables = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **(environment or {})}
    return subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def when_ready(folder: Path) -> list[int]:
    """Process ids of the two ranks once both wait."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("ready-[01]"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [json.loads((folder / f"ready-{rank}").read_text()) for rank in (0, 1)]


def test_every_rank_knows_its_place_in_the_world(tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    body = f"write(f'env-{{rank}}', {{name: os.environ[name] for name in {names}}})"
    assert ended(node(tmp_path, body, "--nodes", "2", "--node", "1", "--master", "first:2500")) == (0, "")
    assert json.loads((tmp_path / "env-3").read_text()) == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "first",
        "MASTER_PORT": "2500",
    }


def test_a_signal_reaches_every_rank_once_and_what_was_saved_is_said_by_the_exit_code(tmp_path):
    process = node(tmp_path, "until_asked(143)")
    when_ready(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "")
    assert [json.loads((tmp_path / f"seen-{rank}").read_text()) for rank in (0, 1)] == [[15], [15]]


def test_a_rank_that_does_not_save_in_time_is_killed_and_the_code_is_not_that_of_a_saved_one(tmp_path):
    process = node(tmp_path, "until_asked(143) if rank else (write('ready-0', os.getpid()), time.sleep(600))", "--grace", "1")
    pids = when_ready(tmp_path)
    process.send_signal(signal.SIGTERM)
    code, err = ended(process)
    assert (code, err.splitlines()[0]) == (1, "ranks: no checkpoint 1 s after SIGTERM; local rank 0 is killed")
    assert not any(map(alive, pids))


def test_a_stop_before_training_began_counts_as_saved(tmp_path):
    body = "signal.signal(signal.SIGTERM, signal.SIG_DFL)\nwrite(f'ready-{rank}', os.getpid())\ntime.sleep(600)"
    process = node(tmp_path, body)
    when_ready(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143


def test_a_rank_that_waits_for_a_failed_one_ends_within_seconds(tmp_path):
    began = time.monotonic()
    found, err = ended(node(tmp_path, "sys.exit(3) if rank else time.sleep(600)"))
    assert (found, err.splitlines()[0]) == (1, "ranks: local rank 1 failed; local rank 0 is killed")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(("codes", "expected"), [([1, 2], 2), ([1, 75], 75), ([143, 143], 143), ([143, 1], 1), ([0, 130], 130)])
def test_the_exit_code_of_all_ranks_says_what_is_to_be_done(tmp_path, codes, expected):
    assert ended(node(tmp_path, f"sys.exit({codes}[rank])"))[0] == expected


def test_what_a_rank_started_ends_with_it(tmp_path):
    body = "import subprocess\nwrite(f'ready-{rank}', subprocess.Popen(['sleep', '600']).pid)\nsys.exit(rank)"
    process = node(tmp_path, body)
    children = when_ready(tmp_path)
    assert ended(process)[0] == 1
    assert not any(map(alive, children))


def test_kubeflow_s_variables_say_which_node_this_is():
    given = {"PET_NNODES": "64", "PET_NODE_RANK": "3", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29500"}
    assert ranks.place_of(given) == ranks.Place(64, 3, "job-node-0-0.job", 29500)
    assert ranks.place_of({"PET_NNODES": "1", "PET_NODE_RANK": "0"}) == ranks.Place()
    with pytest.raises(UserError, match="PET_NODE_RANK is '' and must be a number"):
        ranks.place_of({**given, "PET_NODE_RANK": ""})


def test_a_wrong_command_line_is_one_line_and_exit_code_2(tmp_path):
    assert ended(node(tmp_path, "", "--nodes", "2")) == (
        2,
        "error: ranks: several nodes need the address and port of the first one: --master HOST:PORT\n",
    )
    assert ended(node(tmp_path, "", "--nodes", "2", "--master", "here")) == (2, "error: ranks: --master here must be HOST:PORT\n")
    assert ended(node(tmp_path, "", environment={"PET_NNODES": "two"}))[0] == 2
