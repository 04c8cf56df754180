"""Does the tiny recipe's result hold? Runs over seeds of footage, VAE and training, one of them on an older processor.

    python -m benchmarks.tiny_seeds                  four runs: 2 seeds of footage and VAE x 2 of training; stopped, it goes on where it was
    python -m benchmarks.tiny_seeds --jobs 2         two runs side by side, a core each
    python -m benchmarks.tiny_seeds --report         the table of what is there, and whether the bars hold; runs nothing

The last of the four imitates a processor without bf16 units and AVX-512, from its footage on. Each run is a whole `mugv run` into
build/tiny_seeds. Held: every run passes the recipe's gate, and the worst run of each gated metric lies above its threshold by at
least its standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.readme_table import find_evaluation
from mugv.evaluation.columns import TITLES
from mugv.evaluation.scores import ROWS
from mugv.platform.registry import decide
from mugv.recipe import load_recipe
from mugv.recipe.schema import Gate
from mugv.stages.graph import Keys
from mugv.stages.roots import Roots

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs" / "tiny.yaml"
OLDER = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
WANTED = {"t2v_seen_all": (0.88, 0.80), "t2v_held_out_all": (0.72, 0.62), "i2v_all": (0.90, 0.84)}
"""Metric -> (mean over the runs, worst run)."""


@dataclass(frozen=True)
class Run:
    footage: int
    training: int
    older: bool = False

    @property
    def name(self) -> str:
        return f"footage {self.footage}, training {self.training}{', older processor' if self.older else ''}"

    @property
    def file(self) -> str:
        return f"footage-{self.footage}-training-{self.training}{'-older' if self.older else ''}.json"

    def state(self, folder: Path) -> Path:
        """Runs of one footage share it and the VAE; the older processor makes its own."""
        return folder / f"footage-{self.footage}{'-older' if self.older else ''}"

    @property
    def changes(self) -> list[str]:
        return [
            f"data.sample.seed={self.footage}",
            f"seed={self.footage}",
            f"training_seed={self.training}",
            f"register.model=seeds-{self.footage}-{self.training}",  # its own, so that no run is compared with another
        ]

    @property
    def key(self) -> str:
        """Of the evaluation: of the recipe and the code that lead to it."""
        recipe = load_recipe(RECIPE, self.changes)
        return Keys(recipe, Roots.of(recipe))["evaluate"]

    def command(self, folder: Path) -> list[str]:
        sets = [part for change in self.changes for part in ("--set", change)]
        return [sys.executable, "-m", "mugv.cli.main", "run", "--recipe", str(RECIPE), "--state", str(self.state(folder)), *sets]


RUNS = (Run(0, 0), Run(0, 1), Run(1, 0), Run(1, 1, older=True))


def run(item: Run, folder: Path, threads: int | None) -> None:
    """One `mugv run`; its metrics go to the folder when it is done."""
    path = folder / item.file
    if path.is_file() and json.loads(path.read_text())["key"] == item.key:
        return
    log = path.with_suffix(".log")
    environment = {**os.environ, **(OLDER if item.older else {}), **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    print(f"{item.name}: begins, log in {log}", flush=True)
    began = time.time()
    with log.open("a") as out:
        done = subprocess.run(item.command(folder), env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{item.name}: mugv run ended with code {done.returncode}; see {log}")
    tree = json.loads((find_evaluation(item.state(folder), "latest") / "metrics.json").read_text())
    seconds = round(time.time() - began, 1)
    result = {"run": item.name, "key": item.key, "seconds": seconds, "metrics": tree["metrics"], "table": tree["table"]}
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{item.name}: {result['seconds']:.0f} s", flush=True)


def results(folder: Path) -> list[dict[str, Any]]:
    """Of the runs that are there, by the recipe and the code of now."""
    found = [(item, json.loads((folder / item.file).read_text())) for item in RUNS if (folder / item.file).is_file()]
    return [result for item, result in found if result["key"] == item.key]


def standard_error(share: float, clips: int) -> float:
    """Of a share, with one right and one wrong clip added, so that 1.0 has one too (Agresti and Coull)."""
    smoothed = (share * clips + 1) / (clips + 2)
    return math.sqrt(smoothed * (1 - smoothed) / (clips + 2))


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row of the judge's table, a column of its columns, mean and range over the runs."""
    keys = [key for key in TITLES if all(key in result["table"] for result in found)]
    lines = ["| | " + " | ".join(TITLES[key] for key in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, title in ROWS.items():
        shares = [[result["table"][key][name]["value"] for result in found] for key in keys]
        cells = [f"**{sum(values) / len(values):.2f}** ({min(values):.2f} to {max(values):.2f})" for values in shares]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bars(found: Sequence[dict[str, Any]], gate: Gate) -> list[tuple[bool, str]]:
    """(held, what was seen) of the gate in each run, of each gated metric's worst run, and of the wanted means and worst runs."""
    lines = []
    for result in found:
        decision = decide(gate, result["metrics"], None)
        lines.append((decision.champion, f"gate, {result['run']}: {'passed' if decision.champion else '; '.join(decision.reasons)}"))
    for name, threshold in gate.minimum.items():
        worst = min(result["metrics"][name] for result in found)
        error = standard_error(worst, max(column["n"] for column in found[0]["table"].values()))
        lines.append((worst - threshold >= error, f"{name}: worst {worst:.3f}, threshold {threshold:g}, standard error {error:.3f}"))
    for name, (mean, least) in WANTED.items():
        values = [result["metrics"][name] for result in found]
        seen = sum(values) / len(values), min(values)
        text = f"{name}: mean {seen[0]:.3f} (wanted {mean:g}), worst {seen[1]:.3f} (wanted {least:g})"
        lines.append((seen[0] >= mean and seen[1] >= least, text))
    return lines


def report(folder: Path) -> int:
    """Print what is there; 1 when a bar is missed or a run is missing."""
    found = results(folder)
    if not found:
        print(f"{folder}: no finished run yet")
        return 1
    print(table(found))
    print(
        "\nseconds of the last call, without what the store had: "
        + ", ".join(f"{result['run']} {result['seconds']:.0f}" for result in found)
    )
    held = bars(found, load_recipe(RECIPE).register_.gate)
    for good, text in held:
        print(f"{'holds' if good else 'MISSED'}  {text}")
    if len(found) < len(RUNS):
        print(f"{len(found)} of {len(RUNS)} runs are there")
    return 0 if all(good for good, _ in held) and len(found) == len(RUNS) else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "tiny_seeds")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    if given.report:
        raise SystemExit(report(given.folder))
    given.folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // given.jobs) if given.jobs > 1 else None
    # Runs that share a state folder follow one another; the older processor's comes first, as the longest.
    groups: dict[Path, list[Run]] = {}
    for item in sorted(RUNS, key=lambda r: not r.older):
        groups.setdefault(item.state(given.folder), []).append(item)
    with ThreadPoolExecutor(given.jobs) as pool:
        waiting = [pool.submit(lambda items: [run(item, given.folder, threads) for item in items], group) for group in groups.values()]
        for future in waiting:
            future.result()
    raise SystemExit(report(given.folder))


if __name__ == "__main__":
    main()
