"""What a stage uses, measured while it works and told to its ledger (mugv.ledger): processor, memory, GPUs held."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mugv.ledger import Ledger, entries, summary
from mugv.platform.records import RunRecord
from mugv.platform.system_metrics import system_file
from mugv.recipe import Recipe
from mugv.stages.graph import Node
from mugv.stages.placement import layout_of, pool_of

LOOK_SECONDS = 5.0
TELL_SECONDS = 30.0


@contextmanager
def accounted(work: Path, record: RunRecord, node: Node, recipe: Recipe) -> Iterator[Ledger]:
    """The ledger of a try; at its end, however it ends, the stage's record has `usage`. Call with the stage's record begun."""
    ledger = Ledger(work)
    ledger.write("try", run=record.run, started=record.stage(node.name).get("started", 0.0), gpus=gpus_held(recipe, node))
    stop = threading.Event()
    meter = _Meter(ledger)
    thread = threading.Thread(target=meter.follow, args=(stop,), name="usage", daemon=True)
    thread.start()
    try:
        yield ledger
    finally:
        stop.set()
        thread.join(LOOK_SECONDS)
        ledger.write("end")
        with suppress(OSError):
            record.update_stage(node.name, usage=summary(work))


def usage_of(record: RunRecord, stage: dict[str, object]) -> dict[str, float]:
    """A stage's usage: as it was told at the end, else what its ledger has, of a stage that goes on or was killed."""
    told, work = stage.get("usage"), str(stage.get("work", ""))
    found = dict(told) if isinstance(told, dict) and told else summary(Path(work)) if work and entries(Path(work)) else {}
    busy = gpu_utilisation(system_file(record, str(stage["node"]))) if found.get("gpus") else None
    return found if busy is None else {**found, "gpu_utilisation": busy}


def gpu_utilisation(samples: Path) -> float | None:
    """Mean share of the time that the machine's GPUs computed, 0 to 1, of what mugv.platform.system_metrics sampled; None: not known."""
    found = []
    with suppress(OSError):
        for line in samples.read_text(errors="replace").splitlines():
            with suppress(ValueError, AttributeError):
                found += [float(v) for k, v in json.loads(line).items() if re.fullmatch(r"gpu_\d+_utilization_percentage", k)]
    return round(sum(found) / len(found) / 100, 3) if found else None


def gpus_held(recipe: Recipe, node: Node) -> int:
    """GPUs that nobody else can have while the stage works: of all its nodes on a cluster, else those that this machine shows it."""
    pool = pool_of(recipe, node)
    if pool.gpus:
        layout = layout_of(recipe, node.stage, pool)
        return layout.nodes * min(pool.gpus, layout.processes_per_node) if node.pool != "data" else pool.gpus
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    here = len([d for d in visible.split(",") if d.strip()]) if visible is not None else len(list(Path("/dev").glob("nvidia[0-9]*")))
    return 0 if node.pool == "data" else here


class _Meter:
    """Samples the processes of the stage: processor seconds of all that live or were waited for, and their resident bytes."""

    def __init__(self, ledger: Ledger) -> None:
        import psutil

        self._ledger, self._process = ledger, psutil.Process()
        self._before, self._peak = self._look()[0], 0.0

    def follow(self, stop: threading.Event) -> None:
        """Until `stop`: a line at the start, now and then, and at the end."""
        elapsed = TELL_SECONDS
        while True:
            seconds, resident = self._look()
            self._peak = max(self._peak, resident)
            if elapsed >= TELL_SECONDS or stop.is_set():
                self._ledger.write("use", cpu_seconds=round(max(0.0, seconds - self._before), 2), bytes=int(self._peak))
                elapsed = 0.0
            if stop.is_set():
                return
            stop.wait(LOOK_SECONDS)
            elapsed += LOOK_SECONDS

    def _look(self) -> tuple[float, float]:
        import psutil

        seconds = resident = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.Error):
                seconds += sum(process.cpu_times()[:4])
                resident += process.memory_info().rss
        return seconds, resident
