"""Parts of all shards to a ClipSet folder.

manifest.parquet     a row a clip, kept or rejected         shards/clips-00000.tar   the kept clips
embeddings.parquet   of the kept clips, when there are any  card.json, DATA_CARD.md  the data card
report.html          for people: pictures, histograms, reasons
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mugv.curation.captions.apply import apply_captions
from mugv.curation.captions.record import read_captioned
from mugv.curation.hashing import small_pictures
from mugv.curation.merge import merge
from mugv.curation.report.card import card_text, make_card
from mugv.curation.report.page import render_report
from mugv.curation.report.strips import choose, read_strips
from mugv.curation.rows import ClipRow, read_rows, write_rows
from mugv.curation.shard import EMBEDDING_SCHEMA, EMBEDDINGS, PART, write_tar
from mugv.errors import UserError
from mugv.recipe.schema import Curation
from mugv.store.carried import local_path

CLIPS_PER_SHARD = 512
MANIFEST = "manifest.parquet"


def publish(parts: Sequence[Path], out: Path, settings: Curation, seed: int, captions: Sequence[Path] = ()) -> dict[str, Any]:
    """Write the clip set of all parts into `out` and return its card. The same clips give the same bytes, however sharded.

    captions: outputs of the stage `caption`, when a model wrote them.
    """
    rows = apply_captions((row for part in parts for row in read_rows(part / PART)), read_captioned(captions), settings)
    folders = [local_path(name) for name in settings.duplicates.earlier]
    earlier = {folder.name: _earlier_rows(folder) for folder in folders}
    embeddings = read_embeddings([*folders, *parts])
    rows, split_by = merge(rows, settings, seed, earlier, embeddings)
    kept = [row for row in rows if row.status == "kept"]
    places = {row.clip_id: f"shards/clips-{k // CLIPS_PER_SHARD:05d}.tar" for k, row in enumerate(kept)}
    rows = [replace(row, shard=places.get(row.clip_id, "")) for row in rows]
    clips = _Clips(parts)
    card = make_card(rows, _write_shards(clips, kept, places, out), split_by, settings)
    shown = choose(rows, read_strips(parts), clips)
    write_rows(out / MANIFEST, rows)
    _write_embeddings(out / EMBEDDINGS, kept, embeddings)
    (out / "card.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    (out / "DATA_CARD.md").write_text(card_text(card))
    (out / "report.html").write_text(render_report(rows, card, shown, settings))
    return card


class _Clips(Mapping[str, bytes]):
    """clip_id -> MP4, of all parts; read when asked for, with no file left open: there may be more parts than a process may open."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._where: dict[str, tuple[Path, int, int]] = {}
        for path in (path for part in parts for path in sorted(part.glob("clips-*.tar"))):
            with tarfile.open(path) as tar:
                self._where |= {member.name.removesuffix(".mp4"): (path, member.offset_data, member.size) for member in tar}

    def __getitem__(self, clip_id: str) -> bytes:
        path, start, size = self._where[clip_id]
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _write_shards(clips: _Clips, kept: Sequence[ClipRow], places: Mapping[str, str], out: Path) -> dict[str, str]:
    """Copy the kept clips, in row order, into shards; returns the SHA-256 of each."""
    (out / "shards").mkdir()
    digests = {}
    for start in range(0, len(kept), CLIPS_PER_SHARD):
        some = kept[start : start + CLIPS_PER_SHARD]
        shard = places[some[0].clip_id]
        write_tar(out / shard, ((f"{row.clip_id}.mp4", clips[row.clip_id]) for row in some))
        with (out / shard).open("rb") as file:
            digests[shard] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _earlier_rows(folder: Path) -> list[ClipRow]:
    """Rows of an earlier clip set. Raises UserError when it is none, or its hashes cannot be compared."""
    where = f"curation.duplicates.earlier {folder}"
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{where}: not a clip set, {MANIFEST} is missing")
    rows = read_rows(folder / MANIFEST)
    try:
        small_pictures(next((row.hash for row in rows if row.status == "kept" and row.hash), "") or "A" * 128)
    except ValueError:
        raise UserError(f"{where}: its hashes are of another kind; curate it again") from None
    return rows


def read_embeddings(folders: Sequence[Path]) -> dict[str, np.ndarray]:
    """clip_id -> float32 [D], of every folder that has embeddings."""
    found = {}
    for path in (folder / EMBEDDINGS for folder in folders):
        if path.is_file():
            table = pq.read_table(path)
            for name, vector in zip(table["clip_id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
                found[name] = np.asarray(vector, np.float32)
    return found


def _write_embeddings(path: Path, kept: Sequence[ClipRow], embeddings: Mapping[str, np.ndarray]) -> None:
    rows = [{"clip_id": row.clip_id, "embedding": embeddings[row.clip_id]} for row in kept if row.clip_id in embeddings]
    if rows:
        pq.write_table(pa.Table.from_pylist(rows, schema=EMBEDDING_SCHEMA), path)
