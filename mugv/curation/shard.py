"""A shard of sources to a part: part.parquet, clips-<i>.tar, strips-<i>.tar, and embeddings.parquet when there are any.

Finished sources survive a kill in the work folder, each a folder that was renamed into place; the source in flight starts again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mugv.curation.contained import failed, of_the_run
from mugv.curation.download import Lost
from mugv.curation.fetch import Away, Got, fetched
from mugv.curation.meter import Meter
from mugv.curation.rows import ClipRow, read_rows, write_rows
from mugv.curation.source import curate_source, whole_file
from mugv.curation.sources import SourceFile
from mugv.errors import ServiceAwayError
from mugv.media.decoder import DecoderEndedError
from mugv.recipe.fetch import Fetch
from mugv.recipe.schema import Curation

log = logging.getLogger(__name__)
Progress = Callable[[int, int, dict[str, float]], None]
STRIPS = 3
"""Contact strips kept of a source for each reason, and of its kept clips, evenly over its length."""
PART = "part.parquet"
EMBEDDINGS = "embeddings.parquet"
"""Columns clip_id and embedding (list of float32)."""
ROWS, METER, WRITING = "rows.parquet", "meter.json", "writing"
"""In the folder of a finished source, and the one that is being written."""
_LOST, _SCRATCH = "lost", "fetch"
EMBEDDING_SCHEMA = pa.schema([("clip_id", pa.string()), ("embedding", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class Finished:
    """The sources of a shard in `work`, in order."""

    homes: list[Path]
    before: int
    """How many of them an earlier run had finished."""
    meter: Meter


@dataclass(frozen=True)
class Access:
    """How sources are had, see mugv.curation.fetch.fetched."""

    base: Path | None
    limits: Fetch = field(default_factory=Fetch)
    signed: Mapping[str, str] = field(default_factory=dict)


def curate_shard(sources: Sequence[SourceFile], access: Access, settings: Curation, work: Path, progress: Progress) -> Finished:
    """Curate what `work` has not finished; progress(done, total, rates).

    Raises StoreError when the server of a source stays away (of the web: after all that can be had); calling again goes on from there.
    """
    homes = [work / home_name(source) for source in sources]
    todo = [source for source, home in zip(sources, homes, strict=True) if not home.exists()]
    before = len(sources) - len(todo)
    here, away = Meter(), list[Away]()
    progress(before, len(sources), {})
    for count, (source, got) in enumerate(_files(todo, access, work / _SCRATCH), 1):
        if isinstance(got, Away):
            away.append(got)
            continue
        here.add(_curate(source, got, settings, work))
        progress(before + count - len(away), len(sources), _shown(here))
    if away:
        what = f"{len(away)} of {len(sources)} sources cannot be had now, the others are done"
        raise ServiceAwayError(f"{what}; the first: {away[0].detail}, or take them off the list")
    total = Meter()
    for home in homes:
        total.add(Meter(**json.loads((home / METER).read_text())))
    return Finished(homes, before, total)


def _shown(meter: Meter) -> dict[str, float]:
    rates = meter.rates()
    return {"frames/s": rates["frames_per_second"], "x real time": rates["video_seconds_per_second"]} if rates else {}


def _files(todo: Sequence[SourceFile], access: Access, scratch: Path) -> Iterator[tuple[SourceFile, Got]]:
    """Every source with its file, as they come; of a duplicate nothing is fetched, since nothing is read."""
    for source in todo:
        if source.duplicate_of:
            yield source, Path()
    yield from fetched([source for source in todo if not source.duplicate_of], access.base, scratch, access.limits, access.signed)


def home_name(source: SourceFile) -> str:
    """Of the source's folder in `work`: all of the source that decides what becomes of it."""
    facts = [source.name, source.duplicate_of, source.licence, [[c.start, c.end, c.caption] for c in source.captions]]
    return f"{source.digest[:20]}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]}"


def _curate(source: SourceFile, got: Path | Lost, settings: Curation, work: Path) -> Meter:
    """One source to its folder in `work`, complete or not at all."""
    temporary, meter, began = work / WRITING, Meter(), time.perf_counter()
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_rows(temporary / ROWS, _write_items(source, got, settings, temporary, meter))
    meter.wall_seconds = time.perf_counter() - began
    (temporary / METER).write_text(json.dumps(asdict(meter)))
    temporary.rename(work / home_name(source))
    return meter


def _write_items(source: SourceFile, got: Path | Lost, settings: Curation, folder: Path, meter: Meter) -> list[ClipRow]:
    found = got if isinstance(got, Lost) else _clips_or_loss(source, got, settings, folder, meter)
    if not isinstance(found, Lost):
        return found
    (folder / _LOST).touch()
    return [whole_file(source, found.reason, found.detail)]


def _clips_or_loss(
    source: SourceFile, path: Path, settings: Curation, folder: Path, meter: Meter, again: bool = True
) -> list[ClipRow] | Lost:
    """What the source raises is its own loss, never the run's. `again`: try once more when the decoder was killed."""
    try:
        return _write_clips(source, path, settings, folder, meter)
    except Exception as error:
        if of_the_run(error):
            raise
        for left in folder.iterdir():
            left.unlink()
        if again and isinstance(error, DecoderEndedError):
            return _clips_or_loss(source, path, settings, folder, meter, again=False)
        log.info("source %r", source.name, exc_info=error)
        return failed(error)


def _write_clips(source: SourceFile, path: Path, settings: Curation, folder: Path, meter: Meter) -> list[ClipRow]:
    rows, embeddings = [], []
    for item in curate_source(source, path, settings, meter):
        rows.append(item.row)
        name = item.row.clip_id
        if item.clip:
            (folder / f"{name}.mp4").write_bytes(item.clip)
        if item.strip:
            (folder / f"{name}.jpg").write_bytes(item.strip)
        if item.embedding is not None:
            embeddings.append({"clip_id": name, "embedding": np.asarray(item.embedding, np.float32)})
    if embeddings:
        pq.write_table(pa.Table.from_pylist(embeddings, schema=EMBEDDING_SCHEMA), folder / EMBEDDINGS)
    if not rows or len({row.clip_id for row in rows}) < len(rows):
        raise RuntimeError("no rows, or two of one clip_id")
    _thin_strips(rows, folder)
    return rows


def _thin_strips(rows: list[ClipRow], folder: Path) -> None:
    """Leave STRIPS of each reason, spread evenly: a long source has thousands."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for row in rows:
        strip = folder / f"{row.clip_id}.jpg"
        if strip.exists():
            groups[row.reason].append(strip)
    for strips in groups.values():
        stay = {round(k * (len(strips) - 1) / (STRIPS - 1)) for k in range(STRIPS)}
        for place, strip in enumerate(strips):
            if place not in stay:
                strip.unlink()


def write_part(finished: Finished, out: Path, index: int) -> Counter[str]:
    """Write the part of a finished shard; returns how many rows have each status."""
    rows = [row for home in finished.homes for row in read_rows(home / ROWS)]
    write_rows(out / PART, rows)
    for kind, name in (("mp4", "clips"), ("jpg", "strips")):
        if any(_made(finished.homes, kind)):
            write_tar(out / f"{name}-{index}.tar", ((path.name, path.read_bytes()) for path in _made(finished.homes, kind)))
    _join_embeddings([home / EMBEDDINGS for home in finished.homes if (home / EMBEDDINGS).exists()], out / EMBEDDINGS)
    return Counter(row.status for row in rows)


def held(finished: Finished) -> dict[str, str]:
    """What later shards may take over: folder name -> source. One that could not be had is tried again."""
    return {home.name: read_rows(home / ROWS)[0].source for home in finished.homes if not (home / _LOST).exists()}


def _made(homes: Iterable[Path], kind: str) -> Iterator[Path]:
    return (path for home in homes for path in sorted(home.glob(f"*.{kind}")))


def _join_embeddings(files: list[Path], out: Path) -> None:
    if files:
        with pq.ParquetWriter(out, EMBEDDING_SCHEMA) as writer:
            for file in files:
                writer.write_table(pq.read_table(file))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Equal members give equal bytes: no times, no owners."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
