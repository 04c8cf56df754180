"""One source file to its rows and clips, in one decode: shots, windows, scores, verdict, clip.

A file that ends too early gives the windows before its end; the last one is rejected as `truncated`, since nothing tells a
damaged picture from a good one there.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mugv.curation.hashing import video_hash
from mugv.curation.meter import Meter
from mugv.curation.rows import ClipRow
from mugv.curation.rules import verdict
from mugv.curation.scores import Score, build_scores, embed, measure, pictures_needed
from mugv.curation.scores.facts import signal_facts
from mugv.curation.shots import tag_frames
from mugv.curation.sources import Caption, SourceFile
from mugv.curation.windows import Clip, Window, cut_windows, shot_rule
from mugv.media.decoder import ProcessReader
from mugv.media.encode import write_video
from mugv.media.picture import Want
from mugv.media.probe import NoVideoStreamError, UnreadableVideoError
from mugv.media.resize import fit_short_side
from mugv.recipe.curation import Curation

STRIP_FRAMES, STRIP_SIDE, STRIP_QUALITY = 6, 96, 80


@dataclass(frozen=True)
class Measured:
    """A row with its scores and, unless it is a stretch without one, the clip (cropped when the recipe says so)."""

    row: ClipRow
    clip: Clip | None


@dataclass(frozen=True)
class Item:
    """A row and what is stored of it."""

    row: ClipRow
    clip: bytes = b""
    """MP4; empty unless the row is kept."""
    strip: bytes = b""
    """JPEG, six frames side by side; empty without a clip."""
    embedding: np.ndarray | None = None
    """float32 [D]."""


def measure_source(source: SourceFile, path: Path, settings: Curation, meter: Meter | None = None) -> Iterator[Measured]:
    """Rows of a file with every score and its verdict; status `kept` means that no rule rejects it. Nothing is encoded.

    `meter` is filled when the file is done: frames, playing time, time spent in the decoder.
    """
    if source.duplicate_of:
        yield Measured(whole_file(source, "duplicate", f"the same bytes as {source.duplicate_of}"), None)
        return
    scores = _scores(settings)
    reader = ProcessReader(path, [*pictures_needed(scores), Want(settings.clip.short_side)])
    held: Measured | None = None
    try:
        for measured in _measured(reader, source, settings, scores):
            if held:
                yield held
            held = measured
    except NoVideoStreamError as error:
        yield Measured(whole_file(source, "no_video", str(error)), None)
    except UnreadableVideoError as error:
        yield Measured(whole_file(source, "unreadable", str(error)), None)
    if held:
        row = held.row
        if reader.problem:
            row = replace(row, status="rejected", reason="truncated", detail=reader.problem)
        yield Measured(row, held.clip)
    if meter:
        meter.add(Meter(reader.count, reader.seconds, reader.busy_seconds))


def curate_source(source: SourceFile, path: Path, settings: Curation, meter: Meter | None = None) -> Iterator[Item]:
    """Rows of a file, kept (so far: duplicates are found later) and rejected, with what is stored of each."""
    for measured in measure_source(source, path, settings, meter):
        row, clip = measured.row, measured.clip
        if clip is None:
            yield Item(row)
        elif row.status == "kept":
            yield _stored(row, clip, path, settings)
        else:
            yield Item(row, strip=strip(clip), embedding=embed(clip, settings) if settings.score_only else None)


def _measured(reader: ProcessReader, source: SourceFile, settings: Curation, scores: Sequence[Score]) -> Iterator[Measured]:
    frames = iter(reader)
    first = next(frames, None)
    if first is None:
        return
    assert reader.info is not None
    split = shot_rule(source.name, settings)
    tagged = tag_frames(itertools.chain([first], frames), reader.info.fps, split)
    begun: Counter[int] = Counter()
    told = signal_facts(reader.info)
    for window in cut_windows(tagged, reader.info, split, settings.clip):
        begun[window.start_frame] += 1
        measured = judge(window, source, settings, scores, begun[window.start_frame])
        yield replace(measured, row=replace(measured.row, **told))


def judge(window: Window, source: SourceFile, settings: Curation, scores: Sequence[Score], number: int = 1) -> Measured:
    """Score a window against the recipe; the first rule that fails gives the reason. `number`: of those that begin at its frame."""
    caption = caption_for(source.captions, window.start_seconds, window.end_seconds)
    row = ClipRow(
        clip_id=f"{source.digest[:12]}-{window.start_frame:06d}" + (f"-{number}" if number > 1 else ""),
        source=source.name,
        source_digest=source.digest,
        start_frame=window.start_frame,
        end_frame=window.end_frame,
        start_seconds=round(window.start_seconds, 4),
        end_seconds=round(window.end_seconds, 4),
        caption=caption,
        caption_source="sidecar" if caption else "",
        licence=source.licence,
        reason=window.reason,
        detail=window.detail,
    )
    if window.clip is None:
        return Measured(row, None)
    clip, box, measured = measure(window.clip, scores, settings)
    values: dict[str, Any] = dict(measured)
    assert isinstance(clip, Clip)
    if wrong := [f"{name} {value}" for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]:
        # It would pass every threshold and put the ranks of all clips out of order.
        raise ValueError(f"a score is no number: {wrong[0]}")
    height, width = fit_short_side(*clip.size, settings.clip.short_side)
    crop = ",".join(map(str, box)) if box else ""
    row = replace(row, crop=crop, width=width, height=height, frames=clip.count, fps=settings.clip.fps, **values)
    if not row.reason:
        reason, detail = verdict(row, settings)
        row = replace(row, reason=reason, detail=detail)
    status = "scored" if settings.score_only else "rejected" if row.reason else "kept"
    return Measured(replace(row, status=status), clip)


def caption_for(captions: tuple[Caption, ...], start: float, end: float) -> str:
    """The caption whose range covers most of the clip, at least half of it; the shorter range when two cover the same."""
    best, chosen = (0.5 * (end - start) - 1e-6, 0.0), ""
    for caption in captions:
        stop = end if caption.end is None else caption.end
        covered = round(min(end, stop) - max(start, caption.start), 4)
        length = float("inf") if caption.end is None else caption.end - caption.start
        if (covered, -length) > best:
            best, chosen = (covered, -length), caption.caption
    return chosen


def strip(clip: Clip) -> bytes:
    """JPEG of six frames of a clip, evenly spaced, side by side."""
    places = np.linspace(0, clip.count - 1, STRIP_FRAMES).round().astype(int)
    picture = np.concatenate([clip.bgr(int(k), STRIP_SIDE) for k in places], axis=1)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, STRIP_QUALITY])
    assert done
    return data.tobytes()


def whole_file(source: SourceFile, reason: str, detail: str) -> ClipRow:
    """The one row of a source that gives nothing."""
    name = hashlib.sha256(source.name.encode()).hexdigest()[:12]
    return ClipRow(f"{source.digest[:12]}-file-{name}", source.name, source.digest, licence=source.licence, reason=reason, detail=detail)


def _stored(row: ClipRow, clip: Clip, path: Path, settings: Curation) -> Item:
    frames = clip.frames(settings.clip.short_side)
    data = _copied(clip, path, settings)
    stored = "copied" if data else "encoded"
    if not data:
        buffer = io.BytesIO()
        write_video(buffer, frames, settings.clip.fps)
        data = buffer.getvalue()
    row = replace(row, hash=video_hash(frames), stored=stored, digest=hashlib.sha256(data).hexdigest())
    return Item(row, data, strip(clip), embed(clip, settings))


def _copied(clip: Clip, path: Path, settings: Curation) -> bytes | None:
    if not settings.clip.copy_streams:
        return None
    from mugv.media.copy import copied_clip

    return copied_clip(path, clip, settings)


_BUILT: dict[str, list[Score]] = {}


def _scores(settings: Curation) -> list[Score]:
    """Built once a process: some hold a network."""
    key = settings.model_dump_json()
    if key not in _BUILT:
        _BUILT[key] = build_scores(settings)
    return _BUILT[key]
