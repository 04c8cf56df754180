"""ClipSet: the published clips of a curation. A manifest with one row a clip, kept or rejected, and tar shards of MP4s."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mugv.curation.rows import ClipRow, read_rows
from mugv.errors import UserError

__all__ = ["ClipRow", "ClipSet"]


class ClipSet:
    """Reads a clip set. A shard's digest is checked the first time that one of its clips is read."""

    def __init__(self, folder: Path, rows: list[ClipRow], card: dict[str, Any]) -> None:
        self.folder = folder
        self.card = card
        self._rows = rows
        self._by_id = {row.clip_id: row for row in rows}
        self._shards: dict[str, dict[str, tuple[int, int]]] = {}

    @staticmethod
    def open(folder: str | Path) -> ClipSet:
        """Raises UserError when the folder holds no clip set."""
        folder = Path(folder)
        missing = [name for name in ("manifest.parquet", "card.json") if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{folder}: not a clip set, {missing[0]} is missing")
        return ClipSet(folder, read_rows(folder / "manifest.parquet"), json.loads((folder / "card.json").read_text()))

    def rows(self, split: str | None = None, status: str | None = "kept") -> list[ClipRow]:
        """Rows in manifest order; split None: any, status None: kept and rejected."""
        return [r for r in self._rows if (split is None or r.split == split) and (status is None or r.status == status)]

    def counts(self) -> dict[str, int]:
        """Kept clips by split and rejected rows by reason."""
        kept = Counter(row.split for row in self._rows if row.status == "kept")
        rejected = Counter(row.reason for row in self._rows if row.status == "rejected")
        return {**dict(sorted(kept.items())), **{f"rejected_{reason}": n for reason, n in sorted(rejected.items())}}

    def video(self, clip_id: str) -> bytes:
        """The clip's MP4. Raises KeyError for a clip that is not kept, UserError for a damaged shard."""
        row = self._by_id[clip_id]
        if row.status != "kept":
            raise KeyError(f"{clip_id} was rejected ({row.reason})")
        start, size = self._index(row.shard)[f"{clip_id}.mp4"]
        with (self.folder / row.shard).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def frames(self, clip_id: str) -> np.ndarray:
        """uint8 [T, H, W, 3], exactly the row's frames."""
        # PyAV is needed by those who read pixels only: training reads latents.
        from mugv.media.decode import read_video

        return read_video(io.BytesIO(self.video(clip_id)))[0]

    def _index(self, shard: str) -> dict[str, tuple[int, int]]:
        """Offset and size of every member; checks the shard's digest."""
        if shard not in self._shards:
            path = self.folder / shard
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != self.card["shards"][shard]:
                raise UserError(f"{path}: damaged, its digest is not the one in card.json; run the curation again")
            with tarfile.open(path) as tar:
                self._shards[shard] = {m.name: (m.offset_data, m.size) for m in tar}
        return self._shards[shard]
