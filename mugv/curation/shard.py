"""A shard of sources to a part: part.parquet and clips-<i>.tar. Finished sources survive a kill in the work folder."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from mugv.curation.rows import ClipRow, write_rows
from mugv.curation.source import curate_source
from mugv.curation.sources import SourceFile
from mugv.recipe.schema import Curation


def curate_shard(
    sources: list[SourceFile], folder: Path, settings: Curation, work: Path, progress: Callable[[int, int], None]
) -> list[tuple[ClipRow, Path | None]]:
    """Rows of every source in order, with the file of each kept clip; sources that `work` has already are not decoded again."""
    found: list[tuple[ClipRow, Path | None]] = []
    for done, source in enumerate(sources, 1):
        found += _cached_source(source, folder / source.name, settings, work)
        progress(done, len(sources))
    return found


def _cached_source(source: SourceFile, path: Path, settings: Curation, work: Path) -> list[tuple[ClipRow, Path | None]]:
    home = work / (source.digest if not source.duplicate_of else f"{source.digest}-{source.name.replace('/', '_')}")
    if not home.exists():
        temporary = work / "writing"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        written = []
        for row, data in curate_source(source, path, settings):
            written.append(asdict(row))
            if data:
                (temporary / f"{row.clip_id}.mp4").write_bytes(data)
        (temporary / "rows.json").write_text(json.dumps(written))
        temporary.rename(home)
    rows = [ClipRow(**row) for row in json.loads((home / "rows.json").read_text())]
    return [(row, home / f"{row.clip_id}.mp4" if row.status == "kept" else None) for row in rows]


def write_part(found: list[tuple[ClipRow, Path | None]], out: Path, index: int) -> None:
    """part.parquet and clips-<index>.tar."""
    write_rows(out / "part.parquet", (row for row, _ in found))
    write_tar(out / f"clips-{index}.tar", ((path.name, path.read_bytes()) for _, path in found if path))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Equal members give equal bytes: no times, no owners."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
