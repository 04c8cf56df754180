"""Parts of all shards to a ClipSet folder: manifest.parquet, shards/clips-00000.tar, card.json."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mugv.curation.merge import merge
from mugv.curation.rows import ClipRow, read_rows, write_rows
from mugv.curation.shard import write_tar
from mugv.recipe.schema import Curation

CLIPS_PER_SHARD = 512


def publish(parts: Sequence[Path], out: Path, settings: Curation, seed: int) -> dict[str, Any]:
    """Write the clip set of all parts into `out` and return its card. The same clips give the same bytes, however sharded."""
    rows = [row for part in parts for row in read_rows(part / "part.parquet")]
    rows, split_by = merge(rows, settings, seed)
    kept = [row for row in rows if row.status == "kept"]
    places = {row.clip_id: f"shards/clips-{k // CLIPS_PER_SHARD:05d}.tar" for k, row in enumerate(kept)}
    rows = [replace(row, shard=places.get(row.clip_id, "")) for row in rows]
    card = _card(rows, _write_shards(parts, kept, places, out), split_by)
    write_rows(out / "manifest.parquet", rows)
    (out / "card.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    return card


def _write_shards(parts: Sequence[Path], kept: list[ClipRow], places: dict[str, str], out: Path) -> dict[str, str]:
    """Copy the kept clips, in row order, into shards; returns the SHA-256 of each."""
    (out / "shards").mkdir()
    digests = {}
    with ExitStack() as stack:
        archives = [stack.enter_context(tarfile.open(path)) for part in parts for path in sorted(part.glob("clips-*.tar"))]
        where = {name: tar for tar in archives for name in tar.getnames()}
        for shard in sorted(set(places.values())):
            names = [f"{row.clip_id}.mp4" for row in kept if places[row.clip_id] == shard]
            write_tar(out / shard, ((name, _member(where[name], name)) for name in names))
            with (out / shard).open("rb") as file:
                digests[shard] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def _card(rows: list[ClipRow], shards: dict[str, str], split_by: str) -> dict[str, Any]:
    kept = [row for row in rows if row.status == "kept"]
    by_clip = "there are too few sources to hold one back: validation clips come from the same footage as training clips"
    return {
        "format": "mugv-clipset-1",
        "clips": dict(sorted(Counter(row.split for row in kept).items())),
        "sources": len({row.source for row in rows}),
        "sources_kept": len({row.source for row in kept}),
        "rejected": dict(sorted(Counter(row.reason for row in rows if row.status == "rejected").items())),
        "seconds": round(sum(row.frames / row.fps for row in kept), 2),
        "split_by": split_by,
        "note": by_clip if split_by == "clip" else "",
        "score": "mean of two ranks over the kept clips: sharpness, and nearness of motion to its median",
        "shards": shards,
    }
