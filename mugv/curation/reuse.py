"""Sources that an earlier shard curated with the same recipe and code: their rows and clips come from its part, nothing is decoded."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq

from mugv.curation.meter import Meter
from mugv.curation.rows import ClipRow, read_rows, write_rows
from mugv.curation.shard import EMBEDDINGS, METER, PART, ROWS, WRITING, home_name
from mugv.curation.sources import SourceFile

Outputs = Iterable[tuple[Mapping[str, str], Callable[[], Path | None]]]
"""Of each earlier part what it holds (`home_name` of a source -> its name), and its folder when asked for."""


def take_over(sources: Sequence[SourceFile], outputs: Outputs, work: Path) -> int:
    """Put what earlier parts hold of the shard's sources into `work` as finished; returns how many sources that are."""
    missing = {name for name in map(home_name, sources) if not (work / name).exists()}
    taken = 0
    for holds, folder in outputs if missing else ():
        found = {source: home for home, source in holds.items() if home in missing}
        part = folder() if found else None
        if part:
            _restore(part, found, work)
            taken += len(found)
            missing -= set(found.values())
        if not missing:
            break
    return taken


def _restore(part: Path, homes: dict[str, str], work: Path) -> None:
    """The folders `homes` (source -> folder name) as `curate_shard` left them, each moved into place when all are complete."""
    temporary = work / WRITING
    shutil.rmtree(temporary, ignore_errors=True)
    rows: dict[str, list[ClipRow]] = defaultdict(list)
    for row in read_rows(part / PART):
        if row.source in homes:
            rows[homes[row.source]].append(row)
    for home, own in rows.items():
        (temporary / home).mkdir(parents=True)
        write_rows(temporary / home / ROWS, own)
        (temporary / home / METER).write_text(json.dumps(asdict(Meter())))
    # The names of files come from the part: one that leaves its folder is not written.
    where = {row.clip_id: temporary / home for home, own in rows.items() for row in own if row.clip_id == Path(row.clip_id).name}
    for path in sorted(part.glob("*.tar")):
        _extract(path, where)
    if (part / EMBEDDINGS).exists():
        _write_embeddings(part / EMBEDDINGS, where)
    for home in rows:
        (temporary / home).rename(work / home)
    shutil.rmtree(temporary, ignore_errors=True)


def _extract(path: Path, where: Mapping[str, Path]) -> None:
    with tarfile.open(path) as tar:
        for member in tar:
            clip_id, dot, kind = member.name.rpartition(".")
            if member.isfile() and clip_id in where and f"{dot}{kind}" in (".mp4", ".jpg"):
                file = tar.extractfile(member)
                assert file is not None
                (where[clip_id] / member.name).write_bytes(file.read())


def _write_embeddings(path: Path, where: Mapping[str, Path]) -> None:
    table = pq.read_table(path)
    places: dict[Path, list[int]] = defaultdict(list)
    for k, clip_id in enumerate(table["clip_id"].to_pylist()):
        if clip_id in where:
            places[where[clip_id]].append(k)
    for folder, some in places.items():
        pq.write_table(table.take(some), folder / EMBEDDINGS)
