"""The kept clips of a part, and the pictures of one that a model is shown."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mugv.curation.rows import ClipRow, read_rows
from mugv.errors import UserError
from mugv.media.decode import read_video
from mugv.media.probe import UnreadableVideoError

JPEG_QUALITY = 90


@dataclass(frozen=True)
class StoredClip:
    """A row and where its MP4 lies: bytes `offset` to `offset + size` of the archive."""

    row: ClipRow
    archive: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def kept_clips(part: Path) -> list[StoredClip]:
    """Every kept row of a part, in row order, with the place of its bytes. UserError when an archive lacks a kept clip."""
    places: dict[str, tuple[Path, int, int]] = {}
    for archive in sorted(part.glob("clips-*.tar")):
        with tarfile.open(archive) as tar:
            places.update({member.name: (archive, member.offset_data, member.size) for member in tar})
    rows = [row for row in read_rows(part / "part.parquet") if row.status == "kept"]
    absent = [row.clip_id for row in rows if f"{row.clip_id}.mp4" not in places]
    if absent:
        raise UserError(f"{part}: clip {absent[0]} of part.parquet is in no archive; curate the shard again")
    return [StoredClip(row, *places[f"{row.clip_id}.mp4"]) for row in rows]


def pictures(clip: StoredClip, count: int, short_side: int) -> list[bytes]:
    """`count` JPEG pictures (fewer of a shorter clip), evenly spaced from first to last frame, at most `short_side` high or wide.

    Raises UnreadableVideoError when the clip's bytes do not decode.
    """
    frames, _ = read_video(io.BytesIO(clip.read()), short_side=short_side)
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [_jpeg(frames[k]) for k in chosen]


def _jpeg(rgb: np.ndarray) -> bytes:
    """`rgb`: uint8 [H, W, 3]."""
    import cv2

    done, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise UnreadableVideoError("a frame cannot be written as JPEG")
    return bytes(data)
