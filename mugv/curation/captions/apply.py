"""Captions and tags onto the rows of the manifest. What the merge calls before it looks for duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mugv.curation.captions.compose import with_score
from mugv.curation.captions.record import Captioned
from mugv.curation.rows import ClipRow
from mugv.curation.tags import tag
from mugv.recipe.curation import Curation


def apply_captions(rows: Iterable[ClipRow], captions: Mapping[str, Captioned], settings: Curation) -> list[ClipRow]:
    """Rows with caption, its parts, source and tags; kept clips without a usable caption become rejected.

    A sidecar caption wins over a model's. Reasons: `bad_caption` (refused by mugv.curation.captions.check), and `no_caption` where
    a caption is required and neither gave one. Tags are read off the caption before the score's suffix is appended.
    """
    return [_suffixed(_captioned(row, captions.get(row.clip_id), settings), settings) for row in rows]


def _captioned(row: ClipRow, found: Captioned | None, settings: Curation) -> ClipRow:
    if found and not row.caption:
        if found.problem:
            return _rejected(row, "bad_caption", found.problem)
        parts: dict[str, Any] = {f"caption_{name}": text for name, text in found.parts.items()}
        row = replace(row, caption=found.caption, caption_source=found.source, **parts)
    if not row.caption:
        return _rejected(row, "no_caption", "no caption covers half of the clip") if settings.require_caption else row
    given = found.tags if found else None
    return replace(row, tags=tag(row.caption, settings.tags) if given is None else given)


def _rejected(row: ClipRow, reason: str, detail: str) -> ClipRow:
    return replace(row, status="rejected", reason=reason, detail=detail) if row.status == "kept" else row


def _suffixed(row: ClipRow, settings: Curation) -> ClipRow:
    if not (settings.caption.score_suffix and row.caption):
        return row
    return replace(row, caption=with_score(row.caption, row.aesthetic))
