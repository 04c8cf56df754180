"""Clip sets for tests of drift: manifests with scores drawn for the purpose, in sources whose clips are more or less alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mugv.curation.rows import ClipRow, write_rows

Change = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


def clips(
    seed: int, rows: int = 400, per_source: int = 1, alike: float = 0.0, prefix: str = "v", change: Change | None = None
) -> list[ClipRow]:
    """Rows with three scores, a caption and tags. `alike`: share of a score's variance between sources, 0 to 1."""
    random = np.random.default_rng(seed)
    found = []
    for k in range(rows):
        source = k // per_source
        if k % per_source == 0:
            common = random.normal(size=3)
        scores = np.sqrt(alike) * common + np.sqrt(1 - alike) * random.normal(size=3)
        word = ("red", "blue", "green")[int(random.integers(3))]
        row = {
            "exposure": 120 + 20 * scores[0],
            "motion": float(np.exp(scores[1])),
            "sharpness": 100 + 10 * scores[2],
            "border": 0.0 if random.random() < 0.9 else float(random.random() / 10),
            "width": 96,
            "height": 96,
            "caption": f"a {word} circle moves {('left', 'right')[int(random.integers(2))]}",
            "tags": (f"subject:{word}",),
            "status": "kept" if random.random() < 0.8 else "rejected",
        }
        row = change(row, random) if change else row
        reason = "" if row["status"] == "kept" else "static"
        name = f"{prefix}{source:06d}.mp4"
        numbers = {"start_frame": 17 * (k % per_source), "end_frame": 17 * (k % per_source) + 17, "start_seconds": 0.0, "end_seconds": 1.4}
        found.append(ClipRow(f"{prefix}{k:08d}", name, f"d-{name}", **numbers, fps=12.0, frames=17, reason=reason, **row))
    return found


def clip_set(folder: Path, rows: list[ClipRow], without: tuple[str, ...] = ()) -> Path:
    """manifest.parquet in a new folder, without some columns, as an older version would have written it."""
    folder.mkdir(parents=True)
    path = folder / "manifest.parquet"
    write_rows(path, rows)
    if without:
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(list(without)), path)
    return path
