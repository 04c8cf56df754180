"""The files that there are to curate, and their table `sources.parquet`. Standard library only, pyarrow when the table is touched."""

from __future__ import annotations

import hashlib
import heapq
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "sources.parquet"


@dataclass(frozen=True)
class Caption:
    """Seconds of the source, half open; start 0 and end None: the whole file."""

    start: float
    end: float | None
    caption: str


@dataclass(frozen=True)
class SourceFile:
    name: str
    """Unique. In a folder or under an S3 prefix the path relative to it, with forward slashes; in a list its `name`, or the URI."""
    digest: str
    """SHA-256, hex: of the contents (folder), else of what identifies them (see mugv.curation.sources_list)."""
    bytes: int
    """0: not known."""
    captions: tuple[Caption, ...]
    shard: int = 0
    duplicate_of: str = ""
    """Name of an earlier source with the same digest."""
    uri: str = ""
    """Where it lies: a path, file://, s3://bucket/key or http(s)://host/path. Empty: `name` in the folder of videos."""
    etag: str = ""
    """Of an S3 object or a file of the web when it was listed; empty: not known."""
    licence: str = ""
    signed: bool = False
    """`uri` lacks what opens it (a password, a signature): the list of videos has it whole."""


def finish(sources: list[SourceFile]) -> list[SourceFile]:
    """By name, later ones of equal digest marked as duplicates of the first."""
    first: dict[str, str] = {}
    found = []
    for source in sorted(sources, key=lambda s: s.name):
        original = first.setdefault(source.digest, source.name)
        found.append(source if original == source.name else replace(source, duplicate_of=original))
    return found


def assign_shards(sources: list[SourceFile], shards: int) -> list[SourceFile]:
    """Largest first onto the lightest shard; the order of the list stays. A source of unknown size counts as an average one."""
    known = [s.bytes for s in sources if s.bytes]
    usual = max(1, sum(known) // len(known)) if known else 1
    heap = [(0, k) for k in range(shards)]
    place = {}
    for source in sorted(sources, key=lambda s: (-(s.bytes or usual), s.name)):
        load, lightest = heap[0]
        place[source.name] = lightest
        heapq.heapreplace(heap, (load + (0 if source.duplicate_of else source.bytes or usual), lightest))
    return [replace(source, shard=place[source.name]) for source in sources]


def digest_of(sources: list[SourceFile]) -> str:
    """SHA-256 over names, contents, captions and licences."""
    facts = [[s.name, s.digest, [[c.start, c.end, c.caption] for c in s.captions], *([s.licence] if s.licence else [])] for s in sources]
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def write_sources(path: Path, sources: list[SourceFile]) -> None:
    """One row a source, `digest_of` in the metadata. Equal sources give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema().with_metadata({"digest": digest_of(sources)})
    columns = {field.name: [getattr(source, field.name) for source in sources] for field in schema}
    columns["captions"] = [[vars(caption) for caption in captions] for captions in columns["captions"]]
    pq.write_table(pa.table(columns, schema=schema), path)


def read_sources_table(path: Path, shard: int | None = None) -> list[SourceFile]:
    """The sources of one shard, or all, in order."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path, filters=None if shard is None else [("shard", "==", shard)]).to_pylist()
    return [SourceFile(**{**row, "captions": tuple(Caption(**c) for c in row["captions"])}) for row in rows]


def table_digest(path: Path) -> str:
    """`digest_of` the sources that the table holds."""
    import pyarrow.parquet as pq

    digest: bytes = pq.read_schema(path).metadata[b"digest"]
    return digest.decode()


def _schema() -> pa.Schema:
    import pyarrow as pa

    caption = pa.struct([("start", pa.float64()), ("end", pa.float64()), ("caption", pa.string())])
    text, number = pa.string(), pa.int64()
    columns = {"name": text, "digest": text, "bytes": number, "captions": pa.list_(caption), "shard": number, "duplicate_of": text}
    return pa.schema(list({**columns, "uri": text, "etag": text, "licence": text, "signed": pa.bool_()}.items()))
