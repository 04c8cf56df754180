"""Rows of all shards to the rows of the clip set: duplicates across shards, composite score, split by source.

Nothing here depends on how the sources were divided: rows are sorted by source and frame first.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from mugv.curation.hashing import distance
from mugv.curation.rows import ClipRow
from mugv.errors import UserError
from mugv.recipe.schema import Curation


def merge(rows: Sequence[ClipRow], settings: Curation, seed: int) -> tuple[list[ClipRow], str]:
    """(rows in their final form, how the split was made: "source" or "clip"). UserError with counts when nothing is kept."""
    rows = sorted(rows, key=lambda row: (row.source, row.start_frame, row.clip_id))
    rows = reject_duplicates(rows, settings.duplicates.distance)
    if not any(row.status == "kept" for row in rows):
        counts = ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(row.reason for row in rows).items()))
        raise UserError(f"no clip was kept: {counts or 'no sources'}; look at the thresholds under curation")
    rows = with_scores(rows)
    return with_split(rows, settings.validation_fraction, seed)


def reject_duplicates(rows: Sequence[ClipRow], limit: int) -> list[ClipRow]:
    """Of kept clips with one caption and at most `limit` differing bits the first, in row order, stays.

    Windows of one shot follow each other and are never compared: a calm shot is no duplicate of itself.
    """
    kept: dict[str, list[ClipRow]] = defaultdict(list)
    result = []
    for row in rows:
        if row.status == "kept":
            original = next((k for k in kept[row.caption] if not _neighbours(k, row) and distance(k.hash, row.hash) <= limit), None)
            if original:
                row = replace(row, status="rejected", reason="duplicate", detail=f"looks like {original.clip_id}")
            else:
                kept[row.caption].append(row)
        result.append(row)
    return result


def _neighbours(first: ClipRow, second: ClipRow) -> bool:
    """Of one source, with less than a clip's length between them."""
    gap = second.start_seconds - first.end_seconds
    return first.source == second.source and gap < first.end_seconds - first.start_seconds


def with_scores(rows: Sequence[ClipRow]) -> list[ClipRow]:
    """Composite score of the kept clips: mean of two ranks in 0 to 1, of sharpness and of how near motion is to its median."""
    kept = [row for row in rows if row.status == "kept"]
    middle = statistics.median(row.motion for row in kept)
    sharp = _ranks([row.sharpness for row in kept])
    steady = _ranks([-abs(row.motion - middle) for row in kept])
    scores = {row.clip_id: round((a + b) / 2, 6) for row, a, b in zip(kept, sharp, steady, strict=True)}
    return [replace(row, score=scores.get(row.clip_id, 0.0)) for row in rows]


def _ranks(values: Sequence[float]) -> list[float]:
    """0 for the smallest, 1 for the largest; equal values share the mean of their ranks."""
    order = sorted(values)
    first: dict[float, int] = {}
    for place, value in enumerate(order):
        first.setdefault(value, place)
    count = Counter(values)
    return [(first[v] + (count[v] - 1) / 2) / max(1, len(values) - 1) if len(values) > 1 else 1.0 for v in values]


def with_split(rows: Sequence[ClipRow], fraction: float, seed: int) -> tuple[list[ClipRow], str]:
    """Validation gets `fraction` of the sources with kept clips, chosen by hash.

    Where that is less than one source, it gets the last clips in time of each instead: a whole source would be far more than asked,
    and training would never see what it shows.
    """
    kept = [row for row in rows if row.status == "kept"]
    sources = sorted({row.source_digest for row in kept}, key=lambda d: hashlib.sha256(f"{seed}:{d}".encode()).hexdigest())
    by_source = len(sources) * fraction >= 1
    if by_source:
        held = set(sources[: _share(len(sources), fraction)])
        validation = {row.clip_id for row in kept if row.source_digest in held}
    else:
        validation = _latest(kept, _share(len(kept), fraction) if len(kept) > 1 else 0)
    splits = {row.clip_id: "validation" if row.clip_id in validation else "train" for row in kept}
    return [replace(row, split=splits.get(row.clip_id, "")) for row in rows], "source" if by_source else "clip"


def _latest(kept: Sequence[ClipRow], count: int) -> set[str]:
    """The `count` clips that come latest within their own source; `kept` is in order of time."""
    total = Counter(row.source_digest for row in kept)
    seen: Counter[str] = Counter()
    place = {}
    for row in kept:
        seen[row.source_digest] += 1
        place[row.clip_id] = seen[row.source_digest] / total[row.source_digest]
    return set(sorted(place, key=lambda name: -place[name])[:count])


def _share(count: int, fraction: float) -> int:
    return 0 if fraction == 0 else min(count - 1, max(1, round(fraction * count)))
