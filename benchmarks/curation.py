"""Every figure of curation beside its bar.

    python -m benchmarks.curation              all of it (about an hour on two cores)
    python -m benchmarks.curation accuracy     footage with known truth (two looks; --seed N: other footage), Sintel trailer, a 4K clip
    python -m benchmarks.curation speed        against decoding alone and against `scenedetect`
    python -m benchmarks.curation memory       peak on a 2-hour 1080p file
    python -m benchmarks.curation plan         a list of 100,000 URIs
    python -m benchmarks.curation kill         kill -9 at random moments, run again: the same manifest

Filters are those of configs/footage.yaml, printed first. Footage is rendered once and kept in --footage. What needs real videos takes them
from MUGV_REAL_VIDEOS or ../shared/videos and says so when there are none. Exits with 1 when a figure falls short.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import curation_cost
from benchmarks.curation_accuracy import generated, motorcycle, sintel
from benchmarks.curation_figures import Figure, footage_settings, real_videos

PARTS = ("accuracy", "speed", "memory", "plan", "kill")
SETS = (("a", 0, 130, 14, 2, 26), ("b", 1, 56, 6, 1, 22))
"""Look, seed beyond --seed, clean shots, shots of each defect, damaged files, shots of a file."""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=(*PARTS, "all"), nargs="?", default="all")
    parser.add_argument("--footage", type=Path, default=Path(tempfile.gettempdir()) / "mugv-curation-footage")
    parser.add_argument("--seed", type=int, default=0, help="of the footage of `accuracy`; 0, 101 and 201 are what was tuned on")
    parser.add_argument("--minutes", type=float, default=120.0, help="length of the file of `memory`")
    parser.add_argument("--details", action="store_true", help="each miss with its file and frame")
    given = parser.parse_args()
    held = [_run(part, given) for part in (PARTS if given.part == "all" else (given.part,))]
    sys.exit(0 if all(held) else 1)


def _run(part: str, given: argparse.Namespace) -> bool:
    begun, figures = time.perf_counter(), []
    if part == "accuracy":
        figures = accuracy(given.footage, given.details, given.seed)
    elif part == "speed":
        figures = curation_cost.speed()
    elif part == "memory":
        figures = curation_cost.memory(given.minutes)
    elif part == "plan":
        figures = curation_cost.plan()
    else:
        from benchmarks.curation_kill import kill

        figures = kill()
    _show(part, figures)
    print(f"({part}: {time.perf_counter() - begun:.0f} s)\n", flush=True)
    return all(figure.holds for figure in figures)


def accuracy(folder: Path, details: bool, first: int) -> list[Figure]:
    """All accuracy figures; the footage is rendered first where it is not there."""
    settings, figures = footage_settings(), []
    print(f"filters: {settings.model_dump_json(exclude_none=True, exclude={'caption', 'tags', 'validation_fraction'})}\n")
    for look, seed, *counts in SETS:
        home = folder / "-".join(map(str, (look, first + seed, *counts)))
        if not (home / "complete").exists():
            _render(home, look, first + seed, *counts)
        _show(f"generated footage, look {look}, seed {first + seed}", made := generated(home, settings, details))
        figures += made
    real = real_videos()
    if real is None:
        print("sintel, motorcycle: skipped, no folder of real footage (set MUGV_REAL_VIDEOS)")
        return figures
    return [*figures, *sintel(real, settings, details), *motorcycle(real, settings)]


def _render(home: Path, look: str, seed: int, shots: int, each: int, damaged: int, per_file: int) -> None:
    from benchmarks.curation_footage import plan, write

    print(f"rendering {home}", flush=True)
    write(home, plan(seed, look, shots, each, damaged, per_file))
    (home / "complete").touch()


def _show(title: str, figures: list[Figure]) -> None:
    print(title)
    for figure in figures:
        print("  " + figure.line(), flush=True)


if __name__ == "__main__":
    main()
