"""Rows of all shards to the rows of the clip set: duplicates, composite score, balance, split by source.

Nothing here depends on how the sources were divided: rows are sorted by source and frame first.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mugv.curation.balance import thin
from mugv.curation.duplicates import reject_duplicates
from mugv.curation.rows import ClipRow
from mugv.errors import UserError
from mugv.recipe.schema import Curation


def merge(
    rows: Sequence[ClipRow],
    settings: Curation,
    seed: int,
    earlier: Mapping[str, Sequence[ClipRow]] | None = None,
    embeddings: Mapping[str, np.ndarray] | None = None,
) -> tuple[list[ClipRow], str]:
    """(rows in their final form, how the split was made: "source", "clip", or "" when only scores were wanted).

    UserError with counts when nothing is kept. earlier, embeddings: see mugv.curation.duplicates.
    """
    rows = sorted(rows, key=lambda row: (row.source, row.start_frame, row.clip_id))
    rows = reject_duplicates(rows, settings, earlier, embeddings)
    if settings.score_only:
        return rows, ""
    if not any(row.status == "kept" for row in rows):
        counts = ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(row.reason for row in rows).items()))
        raise UserError(f"no clip was kept: {counts or 'no sources'}; look at the thresholds under curation")
    rows = with_scores(rows)
    if settings.balance:
        rows = with_scores(thin(rows, settings.balance.shares))
    return with_split(rows, settings.validation_fraction, seed)


def with_scores(rows: Sequence[ClipRow]) -> list[ClipRow]:
    """Composite score of the kept clips: mean of their ranks in 0 to 1, see `ranked`."""
    kept = [row for row in rows if row.status == "kept"]
    ranks = [_ranks(values) for values in ranked(kept).values()]
    scores = {row.clip_id: round(sum(own) / len(own), 6) for row, *own in zip(kept, *ranks, strict=True)} if ranks else {}
    return [replace(row, score=scores.get(row.clip_id, 0.0)) for row in rows]


def ranked(kept: Sequence[ClipRow]) -> dict[str, list[float]]:
    """What the composite score ranks by, of the scores that every kept clip has: more is better."""
    measured: dict[str, list[float]] = {}
    for name in ("sharpness", "motion", "aesthetic"):
        values = [value for row in kept if (value := getattr(row, name)) is not None]
        if values and len(values) == len(kept):
            measured[name] = values
    if "motion" in measured:
        middle = statistics.median(measured["motion"])
        measured["motion"] = [-abs(value - middle) for value in measured["motion"]]
    return measured


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
