"""Comparing two clip sets of many rows: seconds, peak memory, and how often chance alone raises an alarm.

python -m benchmarks.drift [--rows 1000000] [--seeds 400]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mugv.curation.drift.compare import compare
from mugv.curation.drift.statistics import Sample, compare_numbers
from mugv.curation.rows import SCHEMA
from mugv.recipe.retrain import Drift

WORDS = np.array(["red", "blue", "green", "circle", "square", "moves", "slowly", "left"])
PIECE = 1 << 16
PER_SOURCE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="Rows of each manifest.")
    parser.add_argument("--seeds", type=int, default=400, help="Comparisons of equal data.")
    given = parser.parse_args()
    for alike in (0.0, 0.5, 0.9):
        psi, ks = alarms(given.seeds, alike)
        print(f"equal data, sources of 20 clips, ICC {alike:g}: alarms {psi:.3f} (PSI), {ks:.3f} (KS) of 0.05 allowed")
    with tempfile.TemporaryDirectory() as folder:
        paths = [large(Path(folder) / f"{seed}.parquet", given.rows, seed) for seed in (0, 1)]
        before, began = _peak(), time.perf_counter()
        found = compare(paths[0], paths[1], "m version 1", Drift())
        seconds = time.perf_counter() - began
    print(f"{given.rows:,} rows against {given.rows:,}, {len(found.columns)} columns: {seconds:.1f} s, peak memory {_peak():.0f} MB")
    print(f"of it before the comparison {before:.0f} MB; drifted: {[c.name for c in found.drifted]}")


def alarms(seeds: int, alike: float, significance: float = 0.05) -> tuple[float, float]:
    """Shares of comparisons of equal data that exceed what chance explains, by PSI and by KS."""
    over = np.zeros(2)
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        sides = []
        for rows in (400, 600):
            sources = np.arange(rows) // 20
            common = random.normal(size=rows)[sources]
            sides.append(Sample(np.sqrt(alike) * common + np.sqrt(1 - alike) * random.normal(size=rows), sources))
        found = compare_numbers(sides[0], sides[1], significance)
        over += [found.psi > found.psi_bound, found.ks > found.ks_bound]
    return float(over[0] / seeds), float(over[1] / seeds)


def large(path: Path, rows: int, seed: int) -> Path:
    """A manifest of many rows, written piece by piece."""
    random = np.random.default_rng(seed)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, rows, PIECE):
            writer.write_table(_piece(start, min(PIECE, rows - start), random))
    return path


def _piece(start: int, rows: int, random: np.random.Generator) -> pa.Table:
    names = [f"v{(start + k) // PER_SOURCE:06d}.mp4" for k in range(rows)]
    special = {
        "source": names,
        "source_digest": names,
        "status": np.where(random.random(rows) < 0.8, "kept", "rejected").tolist(),
        "caption": [" ".join(line) for line in WORDS[random.integers(len(WORDS), size=(rows, 12))]],
        "tags": [[f"subject:{word}"] for word in WORDS[random.integers(len(WORDS), size=rows)]],
    }
    columns = [pa.array(special[f.name], f.type) if f.name in special else _column(f, rows, random) for f in SCHEMA]
    return pa.table(columns, schema=SCHEMA)


def _column(field: pa.Field, rows: int, random: np.random.Generator) -> pa.Array:
    if pa.types.is_floating(field.type):
        return pa.array(random.normal(size=rows))
    return pa.array(np.full(rows, 96)) if pa.types.is_integer(field.type) else pa.nulls(rows, field.type)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
