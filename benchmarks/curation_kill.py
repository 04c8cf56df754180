"""A real curation, killed (SIGKILL) at random moments and started again until it is done: what is done twice, and is the result the same?

python -m benchmarks.curation_kill RECIPE.json STATE LOG     the run that is killed: every data stage through the store
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.curation_figures import ROOT, Figure
from mugv.recipe import Recipe, load_recipe, recipe_from_json, recipe_to_json


@dataclass(frozen=True)
class Outcome:
    """`begun`: how often the decoding of each source began, over all runs."""

    kills: int
    begun: dict[str, int]
    files: dict[str, str]
    """SHA-256 of every file of the clip set."""
    reference: dict[str, str]
    """The same of a run that nobody killed."""

    @property
    def repeated(self) -> int:
        """Sources whose decoding began more than once, each time counted."""
        return sum(self.begun.values()) - len(self.begun)

    @property
    def identical(self) -> bool:
        return bool(self.files) and self.files == self.reference


def kill_anywhere(recipe: Recipe, folder: Path, kills: int, seed: int = 0) -> Outcome:
    """Curate data.videos twice, once without and once with `kills` kills, in states under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    given = folder / "recipe.json"
    given.write_text(recipe_to_json(recipe))
    reference, sources = _run(given, folder / "whole"), len(_begun(folder / "whole"))
    rng, state = random.Random(seed), folder / "killed"
    # Counted in sources, not in seconds: most of a short run's time is its start, where there is nothing to lose.
    most = max(1, 2 * sources // kills)
    struck = sum(_killed(given, state, rng.randint(1, most), rng.uniform(0.0, 0.3)) for _ in range(kills))
    files = _run(given, state)
    return Outcome(struck, dict(_begun(state)), files, reference)


def _command(given: Path, state: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.curation_kill", str(given), str(state), str(state.with_suffix(".log"))]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _run(given: Path, state: Path) -> dict[str, str]:
    """To the end; returns the digest of every file of the clip set."""
    done = subprocess.run(_command(given, state), capture_output=True, text=True, env=_environment(), cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"the curation failed: {done.stderr[-2000:]}")
    out = Path(done.stdout.splitlines()[-1])
    # manifest.json is the store's own and holds the cache key beside these digests.
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _killed(given: Path, state: Path, count: int, wait: float) -> bool:
    """Kill the run `wait` seconds after its source number `count` has begun; False when it was done before."""
    place = sum(_begun(state).values()) + count
    with subprocess.Popen(
        _command(given, state), stdout=subprocess.DEVNULL, env=_environment(), cwd=ROOT, start_new_session=True
    ) as process:
        while process.poll() is None and sum(_begun(state).values()) < place:
            time.sleep(0.005)
        time.sleep(wait)
        if process.poll() is not None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
    return True


def _begun(state: Path) -> Counter[str]:
    log = state.with_suffix(".log")
    return Counter(log.read_text().splitlines() if log.exists() else ())


def kill(kills: int = 8) -> list[Figure]:
    """The figures: sources done again for each kill (at most the one in flight), and whether the clip set is byte-identical."""
    from benchmarks.curation_footage import plan, write

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "videos", plan(0, "a", 24, 1, 1, 3))
        data = {"videos": str(folder / "videos"), "shards": 2}
        recipe = load_recipe(ROOT / "configs" / "footage.yaml", [f"data.{key}={value}" for key, value in data.items()])
        recipe = recipe.model_copy(update={"curation": recipe.curation.model_copy(update={"require_caption": False})})
        found = kill_anywhere(recipe, folder / "runs", kills)
    note = f"{len(found.begun)} sources, {found.kills} kills"
    return [
        Figure("killed: sources decoded again a kill", found.repeated / max(1, found.kills), 1, at_least=False, note=note),
        Figure(
            "killed: files of the clip set that differ", len(set(found.files.items()) ^ set(found.reference.items())), 0, at_least=False
        ),
    ]


def chain(given: Path, state: Path, log: Path) -> Path:
    """The data stages through the store, as a pipeline runs them; returns the clip set's folder.

    Each source whose decoding begins is a line of `log`.
    """
    from mugv.stages.environment import RunEnvironment
    from mugv.stages.execute import run_node
    from mugv.stages.graph import build_graph
    from mugv.stages.roots import Roots
    from mugv.store import Ref

    _log_sources(log)
    recipe = recipe_from_json(given.read_text())
    environment = RunEnvironment(state, str(state / "store"), run="kill", goal="curate")
    nodes, roots = build_graph(recipe), Roots.of(recipe, state)
    refs: dict[str, Ref] = {}
    for node in nodes[: [node.name for node in nodes].index("curate") + 1]:
        refs[node.name] = run_node(node.name, recipe, {name: refs[source] for name, source in node.inputs.items()}, environment, roots)
    return environment.open_store().fetch(refs["curate"])


def _log_sources(log: Path) -> None:
    from mugv.curation import shard
    from mugv.curation.source import Item

    real = shard.curate_source

    def logged(source, *rest) -> Iterator[Item]:  # type: ignore[no-untyped-def]
        with log.open("a") as file:
            file.write(f"{source.name}\n")
        yield from real(source, *rest)

    shard.curate_source = logged


if __name__ == "__main__":
    print(chain(*map(Path, sys.argv[1:])))
