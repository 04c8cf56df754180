"""What a stage's machine does while the stage works: processor, memory, disk, network, GPUs, under MLflow's names for them.

A thread of the stage's process writes a line now and then to `runs/<run>/system/<node>.jsonl`; the forwarder sends them like any curve,
so a server that is away costs none of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mugv.platform.records import RunRecord

SECONDS = 10.0
_MEGABYTE = 1e6
GPU_FIELDS = {"utilization.gpu": "utilization_percentage", "memory.used": "memory_usage_megabytes", "power.draw": "power_usage_watts"}
"""What nvidia-smi is asked for -> MLflow's name for it."""


@contextmanager
def sampled(record: RunRecord, node: str, seconds: float = SECONDS) -> Iterator[None]:
    """Samples while the block runs: at its start, every `seconds`, and at its end. Never an error of the block."""
    path, stop = system_file(record, node), threading.Event()
    path.parent.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=_loop, args=(path, stop, seconds), name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2.0)


def system_file(record: RunRecord, node: str) -> Path:
    return record.folder / "system" / f"{node}.jsonl"


def _loop(path: Path, stop: threading.Event, seconds: float) -> None:
    import psutil

    psutil.cpu_percent()
    before = psutil.net_io_counters()
    step = _lines(path)
    more = True
    while more:
        more = not stop.wait(seconds if step else min(seconds, 1.0))
        line = {"step": step, "time": time.time(), **machine(path, before)}
        # A full disk must not end the stage through its own measuring.
        with suppress(OSError), path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        step += 1


def machine(folder: Path, before: object = None) -> dict[str, float]:
    """Name -> value now. `before`: psutil's network counters at the beginning; None: traffic is left out."""
    import psutil

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(folder.parent)
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": (memory.total - memory.available) / _MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": _process_memory() / _MEGABYTE,
        "disk_usage_megabytes": disk.used / _MEGABYTE,
        "disk_usage_percentage": 100.0 * disk.used / disk.total,
        "disk_available_megabytes": disk.free / _MEGABYTE,
    }
    now = psutil.net_io_counters()
    if before is not None and now is not None:
        values["network_receive_megabytes"] = (now.bytes_recv - before.bytes_recv) / _MEGABYTE  # type: ignore[attr-defined]
        values["network_transmit_megabytes"] = (now.bytes_sent - before.bytes_sent) / _MEGABYTE  # type: ignore[attr-defined]
    return values | _gpus()


def _process_memory() -> float:
    """Resident bytes of this process and of those below it."""
    import psutil

    total = 0
    for process in (own := psutil.Process(), *own.children(recursive=True)):
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return float(total)


def _gpus() -> dict[str, float]:
    """Of each GPU of the machine, as NVIDIA's own program tells them; {} where it is not installed, and without a driver."""
    program = shutil.which("nvidia-smi")
    if not program:
        return {}
    command = [program, f"--query-gpu=index,{','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.TimeoutExpired):
        return gpu_values(subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout)
    return {}


def gpu_values(table: str) -> dict[str, float]:
    """Values of a table of nvidia-smi: index, then GPU_FIELDS; what a GPU does not tell ("[N/A]") is left out."""
    found: dict[str, float] = {}
    for row in table.splitlines():
        index, *cells = [cell.strip() for cell in row.split(",")]
        for name, cell in zip(GPU_FIELDS.values(), cells, strict=False):
            with suppress(ValueError):
                found[f"gpu_{int(index)}_{name}"] = float(cell)
    return found


def _lines(path: Path) -> int:
    """A stage that goes on counts on."""
    with suppress(OSError):
        return path.read_bytes().count(b"\n")
    return 0
