"""Figures of chaos: the whole chain at nano size, pod by pod, while something breaks; the outputs must be those of an undisturbed run.

    python tests/pods/chaos.py --kills 20          20 runs, each with one task killed by SIGKILL at a random moment
    python tests/pods/chaos.py --storage 3         3 runs through a wire that answers 503 to 10 % of requests and cuts 5 %

Every run has a store and a state volume of its own. Prints a line a run and ends with 1 when one did not end right.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ir import Work
from launcher import Cluster
from place import compiled, namespace
from pod import ROOT, Image, Pod, missing
from services import BUCKET, Faults, Mlflow, Services

RECIPE = ROOT / "tests/pods/nano.yaml"


@dataclass
class Killer:
    """Kills a pod by SIGKILL `after` seconds since the first one of `task` began; the next that begins when none runs then."""

    task: str
    after: float
    hit: str = ""
    running: list[tuple[Pod, str]] = field(default_factory=list)
    due: bool = False

    def started(self, pod: Pod, work: Work) -> None:
        self.running.append((pod, work.name))
        if self.due and not self.hit:
            threading.Timer(random.uniform(0, 1), self._strike).start()
        elif work.name.endswith(self.task) and not self.due:
            threading.Timer(self.after, self._strike).start()

    def _strike(self) -> None:
        self.due = True
        alive = [(pod, name) for pod, name in self.running if pod.process and pod.process.poll() is None]
        if alive and not self.hit:
            pod, self.hit = random.choice(alive)
            pod.kill()


def random_moment(cluster: Cluster) -> Killer:
    """Any moment of an undisturbed run, as a task and the seconds since its start."""
    (work, pod, _), *_ = random.choices(cluster.pods, weights=[pod.seconds for _, pod, _ in cluster.pods])
    return Killer(work.name, random.uniform(0, pod.seconds))


def outputs(services: Services) -> dict[str, str]:
    """Node's prefix and file -> digest. `register` is left out: it numbers the versions of one registry."""
    bucket = services.store.root / BUCKET
    manifests = [path for path in bucket.rglob("manifest.json") if path.relative_to(bucket).parts[0] not in ("register", "carried")]
    found = {path.parent.relative_to(bucket).as_posix(): json.loads(path.read_text())["files"] for path in manifests}
    return {f"{prefix}/{name}": entry["sha256"] for prefix, files in found.items() for name, entry in files.items()}


@dataclass
class Laboratory:
    """An image and an MLflow server for all runs of this program."""

    folder: Path
    keep: Path | None = None
    """Where the stores of the runs are kept for a look."""
    runs: int = 0

    def __enter__(self) -> Laboratory:
        self.image = Image(self.folder / "image").build()
        self.tracking = Mlflow(self.folder / "mlflow")
        self.tracking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.tracking.stop()

    def run(self, killer: Killer | None = None, faults: Faults | None = None) -> tuple[dict[str, str], Cluster, float]:
        """One whole chain; its outputs, the pods, and the seconds it took."""
        self.runs += 1
        folder = self.folder / f"run-{self.runs}"
        services = Services(folder / "services", faults, tracking=False)
        try:
            services.tracking = self.tracking
            pipeline = compiled(RECIPE, services, folder / "pipeline.yaml")
            cluster = namespace(self.image, services, folder, run=f"run-{self.runs}")
            if killer:
                cluster.started = killer.started
            began = time.monotonic()
            cluster.start(pipeline)
            return outputs(services), cluster, time.monotonic() - began
        finally:
            services.store.stop()
            if self.keep:
                shutil.copytree(folder / "services", self.keep / f"run-{self.runs}", dirs_exist_ok=True)
            shutil.rmtree(folder / "services", ignore_errors=True)


def compared(lab: Laboratory, expected: dict[str, str], label: str, **trouble: Any) -> bool:
    """Run once, print what was done and whether the outputs are the expected ones."""
    try:
        found, cluster, seconds = lab.run(**trouble)
    except Exception as error:
        print(f"{label}: did not end: {error}", flush=True)
        return False
    other = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    failed = {work.name: code for work, _, code in cluster.pods if code}
    killer, faults = trouble.get("killer"), trouble.get("faults")
    done = f"killed {killer.hit}, {killer.after:.1f} s after the start of {killer.task}" if killer else f"{faults.counts}"
    print(
        f"{label}: {done}; {len(cluster.pods)} pods, failed {failed}, {seconds:.0f} s; {'equal' if not other else f'other: {other}'}",
        flush=True,
    )
    return not other and (killer is None or 137 in cluster.codes(killer.hit))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--storage", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the stores of the runs")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    if lacks := missing():
        print(lacks)
        return 2
    random.seed(given.seed)
    with tempfile.TemporaryDirectory(prefix="pods-") as folder, Laboratory(Path(folder), given.keep) as lab:
        expected, undisturbed, seconds = lab.run()
        print(f"seed {given.seed}; undisturbed: {len(expected)} outputs in {seconds:.0f} s", flush=True)
        good = [compared(lab, expected, f"kill {k + 1}", killer=random_moment(undisturbed)) for k in range(given.kills)]
        good += [
            compared(lab, expected, f"storage {k + 1}", faults=Faults(errors=0.1, cuts=0.05, seed=given.seed + k))
            for k in range(given.storage)
        ]
    print(f"{sum(good)} of {len(good)} ended with the outputs of the undisturbed run")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
