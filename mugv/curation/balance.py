"""Balance: the kept clips are thinned until every tag has at least its share of them. The best scores stay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from mugv.curation.rows import ClipRow
from mugv.errors import UserError

REASON = "balance"


def thin(rows: Sequence[ClipRow], shares: Mapping[str, float]) -> list[ClipRow]:
    """Rows with the surplus rejected as `balance`: first clips without any of the tags, then of the tags that have more than asked.

    As few go as the shares allow step by step; among equals the lowest score goes first. UserError for a tag that no kept clip
    has, and for shares that cannot be held together.
    """
    kept = [row for row in rows if row.status == "kept"]
    _check(kept, shares)
    stay = {row.clip_id: row for row in kept}
    order = sorted(kept, key=lambda row: (len(shares.keys() & set(row.tags)), row.score, row.clip_id))
    while short := _short(stay.values(), shares):
        surplus = [row for row in order if row.clip_id in stay and not short.keys() & set(row.tags)]
        if not surplus:
            raise UserError(f"curation.balance.shares: {_said(short, shares)} cannot be held together; lower one of them")
        for row in surplus[: max(short.values())]:
            del stay[row.clip_id]
    return [row if row.status != "kept" or row.clip_id in stay else _gone(row, shares) for row in rows]


def _short(rows: Collection[ClipRow], shares: Mapping[str, float]) -> dict[str, int]:
    """Tag that has less than its share -> clips without it that are too many."""
    counts = Counter(tag for row in rows for tag in row.tags if tag in shares)
    too_many = {tag: len(rows) - math.floor(counts[tag] / share + 1e-9) for tag, share in shares.items() if share > 0}
    return {tag: count for tag, count in too_many.items() if count > 0}


def _check(kept: Sequence[ClipRow], shares: Mapping[str, float]) -> None:
    known = Counter(tag for row in kept for tag in row.tags)
    for tag, share in shares.items():
        if share > 0 and tag not in known:
            most = ", ".join(name for name, _ in sorted(known.items(), key=lambda item: (-item[1], item[0]))[:8])
            raise UserError(f"curation.balance.shares: no kept clip has the tag {tag!r}; most frequent are: {most or 'none'}")


def _said(short: Mapping[str, int], shares: Mapping[str, float]) -> str:
    return " and ".join(f"{tag} {shares[tag]:g}" for tag in sorted(short))


def _gone(row: ClipRow, shares: Mapping[str, float]) -> ClipRow:
    asked = ", ".join(f"{tag} {share:g}" for tag, share in shares.items())
    return replace(row, status="rejected", reason=REASON, detail=f"surplus beside the shares {asked}")
