"""One row a clip, kept or rejected: the manifest's schema, and its parquet file. Needs pyarrow only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class ClipRow:
    """A clip and everything measured on it. A source that cannot be used is one rejected row of its own."""

    clip_id: str
    source: str
    """Name relative to the folder of videos, with forward slashes."""
    source_digest: str
    start_frame: int = 0
    """First frame in the source's own numbering."""
    end_frame: int = 0
    """One past the last frame."""
    start_seconds: float = 0.0
    end_seconds: float = 0.0
    width: int = 0
    """Of the stored clip, pixels."""
    height: int = 0
    fps: float = 0.0
    frames: int = 0
    crop: str = ""
    """Box that the black borders left, `left,top,width,height` in upright source pixels; empty: the whole picture."""
    stored: str = ""
    """encoded | copied (cut without re-encoding); empty when rejected."""
    licence: str = ""
    sharpness: float | None = None
    """Scores: see the class of the same name in mugv.curation.scores. None: not measured."""
    motion: float | None = None
    aesthetic: float | None = None
    exposure: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    border: float | None = None
    text: float | None = None
    shake: float | None = None
    freeze: float | None = None
    speed_change: float | None = None
    blockiness: float | None = None
    bits_per_pixel: float | None = None
    source_seconds: float | None = None
    source_fps: float | None = None
    aspect: float | None = None
    transfer: str = ""
    """How the source stores its pictures, in ffmpeg's names; empty: it does not say. Clips are BT.709 of standard range whatever it is."""
    primaries: str = ""
    matrix: str = ""
    color_range: str = ""
    """tv | pc"""
    field_order: str = ""
    """progressive | tt | bb | tb | bt | interlaced (deinterlaced when it was read)"""
    rotation: int = 0
    """Degrees, counterclockwise, by which the source's pictures were turned: 0, 90, 180 or 270; before that, mirrored left to right?"""
    mirrored: bool = False
    hash: str = ""
    """Base64; see mugv.curation.hashing."""
    score: float = 0.0
    """Composite, 0 to 1 over the kept clips; 0 when rejected."""
    caption: str = ""
    """In full: what the text encoder reads."""
    caption_source: str = ""
    """sidecar, or the name of the model."""
    caption_subject: str = ""
    """Parts of a structured caption."""
    caption_appearance: str = ""
    caption_motion: str = ""
    caption_camera: str = ""
    caption_background: str = ""
    tags: tuple[str, ...] = ()
    """`kind:word`, sorted; kind is subject, action or scene."""
    split: str = ""
    """train | validation, empty when rejected."""
    status: str = "rejected"
    """kept | rejected"""
    reason: str = ""
    detail: str = ""
    shard: str = ""
    """File that holds the clip, relative to the clip set."""
    digest: str = ""
    """SHA-256 of the stored clip's bytes."""


_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "bool": pa.bool_(),
    "float": pa.float64(),
    "float | None": pa.float64(),
    "tuple[str, ...]": pa.list_(pa.string()),
}
SCHEMA = pa.schema([(f.name, _TYPES[str(f.type)]) for f in fields(ClipRow)])


def write_rows(path: Path, rows: Iterable[ClipRow]) -> None:
    """Equal rows give equal bytes."""
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), path)


def read_rows(path: Path) -> list[ClipRow]:
    return [ClipRow(**{**row, "tags": tuple(row["tags"])}) for row in pq.read_table(path).to_pylist()]
