"""Near-duplicates among clips, whatever file or caption they come with, and among the clips of earlier clip sets.

Two clips are the same when their small pictures are (mugv.curation.hashing), or their embeddings. The first in the rows'
order stays; clips of earlier sets come before all. Windows of one shot are never compared: a calm shot is no duplicate of itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mugv.curation.hashing import CODE_BYTES, PARTS, codes, distances, small_pictures
from mugv.curation.rows import ClipRow
from mugv.recipe.curation import Curation, Duplicates

RADIUS = 36
"""Bits of 256 by which the codes of one clip may differ; re-encoded, rescaled and shifted clips measured 21 at most."""
BATCH = 1024


@dataclass(frozen=True)
class _Clip:
    """What is compared."""

    clip_id: str
    label: str
    pictures: np.ndarray
    """uint8 [T, F]."""
    shot: tuple[str, int]
    """Clips with the same one are not compared."""


def reject_duplicates(
    rows: Sequence[ClipRow],
    settings: Curation,
    earlier: Mapping[str, Sequence[ClipRow]] | None = None,
    embeddings: Mapping[str, np.ndarray] | None = None,
) -> list[ClipRow]:
    """The rows, of which every clip that shows what an earlier one shows is rejected as `duplicate` (`scored` ones keep their status).

    rows: sorted by source and frame. earlier: name of a clip set -> its rows. embeddings: clip_id -> float32 [D] of unit length.
    """
    before = [_Clip(row.clip_id, f"{row.clip_id} of {name}", _pictures(row), (name, k)) for name, k, row in _kept(earlier or {})]
    shots = _shots(rows, settings)
    places = [k for k, row in enumerate(rows) if _judged(row)]
    clips = before + [_Clip(rows[k].clip_id, rows[k].clip_id, _pictures(rows[k]), shots[k]) for k in places]
    originals = _originals(clips, len(before), settings.duplicates, embeddings or {})
    result = list(rows)
    for number, place in enumerate(places, len(before)):
        if number in originals:
            status = "scored" if rows[place].status == "scored" else "rejected"
            detail = f"looks like {clips[originals[number]].label}"
            result[place] = replace(rows[place], status=status, reason="duplicate", detail=detail)
    return result


def _judged(row: ClipRow) -> bool:
    return row.status in ("kept", "scored") and not row.reason and bool(row.hash)


def _kept(earlier: Mapping[str, Sequence[ClipRow]]) -> list[tuple[str, int, ClipRow]]:
    return [(name, k, row) for name, rows in earlier.items() for k, row in enumerate(rows) if row.status == "kept" and row.hash]


def _pictures(row: ClipRow) -> np.ndarray:
    return small_pictures(row.hash)


def _shots(rows: Sequence[ClipRow], settings: Curation) -> list[tuple[str, int]]:
    """Source and number of the run of windows that follow each other at the recipe's distance, which is one shot."""
    step, run = settings.clip.stride_frames / settings.clip.fps, 0
    shots: list[tuple[str, int]] = []
    for k, row in enumerate(rows):
        previous = rows[k - 1] if k else None
        follows = previous is not None and previous.source == row.source
        follows = follows and abs(row.start_seconds - previous.start_seconds - step) <= 1 / settings.clip.fps  # type: ignore[union-attr]
        run += not follows
        shots.append((row.source, run))
    return shots


def _originals(clips: Sequence[_Clip], before: int, settings: Duplicates, embeddings: Mapping[str, np.ndarray]) -> dict[int, int]:
    """Number of a duplicate -> number of the clip that it looks like. The first `before` clips are never duplicates."""
    near = _candidates(clips, before)
    limit = -1.0 if settings.distance is None else settings.distance
    alike = {(a, b) for a, b in _alike(clips, settings, embeddings).tolist() if clips[a].shot != clips[b].shot}
    found: dict[int, set[int]] = defaultdict(set)
    for a, b in alike | set(map(tuple, near[_apart(clips, near) <= limit].tolist())):
        found[b].add(a)
    originals: dict[int, int] = {}
    for number in range(before, len(clips)):
        # A copy of a copy is compared with the original too: the search names only so many neighbours.
        same = {k for k in found[number] if k not in originals}
        through = sorted({originals[k] for k in found[number] if k in originals and clips[originals[k]].shot != clips[number].shot} - same)
        apart = _apart(clips, np.array([(k, number) for k in through], int).reshape(-1, 2))
        same |= {k for k, far in zip(through, apart, strict=True) if far <= limit or (k, number) in alike}
        if same:
            originals[number] = min(same)
    return originals


def _apart(clips: Sequence[_Clip], pairs: np.ndarray) -> np.ndarray:
    """Distance of each pair [P, 2] in percent, in batches of clips of one length."""
    lengths = np.array([[len(clips[a].pictures), len(clips[b].pictures)] for a, b in pairs.tolist()], int).reshape(-1, 2)
    apart = np.empty(len(pairs))
    for shape in np.unique(lengths, axis=0):
        places = np.flatnonzero((lengths == shape).all(axis=1))
        for some in np.split(places, range(BATCH, len(places), BATCH)):
            first, second = (np.stack([clips[k].pictures for k in pairs[some, side].tolist()]) for side in (0, 1))
            apart[some] = distances(first, second)
    return apart


def _candidates(clips: Sequence[_Clip], before: int) -> np.ndarray:
    """Pairs of near codes. Asked is each clip's middle third, against all thirds of all clips: so a shift in time is found."""
    from mugv.curation.neighbours import near_codes

    if len(clips) <= before or len(clips) < 2:
        return np.empty((0, 2), int)
    every = np.empty((len(clips), PARTS, CODE_BYTES), np.uint8)
    lengths = np.array([len(clip.pictures) for clip in clips])
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        for some in np.split(places, range(BATCH, len(places), BATCH)):
            every[some] = codes(np.stack([clips[k].pictures for k in some.tolist()]))
    owner = np.repeat(np.arange(len(clips)), PARTS)
    pairs = near_codes(every.reshape(-1, CODE_BYTES), owner, np.arange(before, len(clips)) * PARTS + PARTS // 2, RADIUS)
    return pairs[[clips[a].shot != clips[b].shot for a, b in pairs.tolist()]]


def _alike(clips: Sequence[_Clip], settings: Duplicates, embeddings: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pairs of clips whose embeddings are as near as the recipe says."""
    from mugv.curation.neighbours import near_vectors

    known = [k for k, clip in enumerate(clips) if clip.clip_id in embeddings]
    if settings.similarity is None or len(known) < 2:
        return np.empty((0, 2), int)
    vectors = np.stack([embeddings[clips[k].clip_id] for k in known]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.array(known)[near_vectors(vectors, settings.similarity)]
