"""One source file to its rows and clips, in one decode.

A file that ends too early gives the windows of the shots that were whole; its last, unfinished shot is rejected as
`truncated`, since nothing tells a damaged picture from a good one there.
"""

from __future__ import annotations

import hashlib
import io
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mugv.curation.hashing import video_hash
from mugv.curation.rows import ClipRow
from mugv.curation.scores import motion
from mugv.curation.shots import tag_frames
from mugv.curation.sources import Caption, SourceFile
from mugv.curation.windows import Window, cut_windows
from mugv.media.decode import VideoReader
from mugv.media.encode import write_video
from mugv.media.probe import NoVideoStreamError, UnreadableVideoError
from mugv.recipe.schema import Curation

Item = tuple[ClipRow, bytes]
"""A row and the clip's MP4; empty for a rejected row."""


def curate_source(source: SourceFile, path: Path, settings: Curation) -> Iterator[Item]:
    """Rows of a file, kept (so far: duplicates are found later) and rejected, with the bytes of the kept clips."""
    if source.duplicate_of:
        yield _whole_file(source, "duplicate", f"the same bytes as {source.duplicate_of}"), b""
        return
    sizes = (settings.sharpness.short_side, settings.motion.short_side, settings.clip.short_side)
    reader = VideoReader(path, max(sizes))
    waiting: list[Item] = []
    shot = -1
    try:
        for window in cut_windows(tag_frames(reader, settings.shot), settings):
            if window.shot != shot:
                yield from waiting
                waiting, shot = [], window.shot
            waiting.append(judge(window, source, settings))
    except NoVideoStreamError as error:
        yield _whole_file(source, "no_video", str(error)), b""
    except UnreadableVideoError as error:
        yield _whole_file(source, "unreadable", str(error)), b""
    for row, data in waiting:
        lost = reader.problem and row.reason != "transition"
        yield (replace(row, status="rejected", reason="truncated", detail=reader.problem), b"") if lost else (row, data)


def judge(window: Window, source: SourceFile, settings: Curation) -> Item:
    """Score a window against the recipe; the first rule that fails gives the reason."""
    caption = caption_for(source.captions, window.start_seconds, window.end_seconds)
    row = ClipRow(
        clip_id=f"{source.digest[:12]}-{window.start_frame:06d}",
        source=source.name,
        source_digest=source.digest,
        start_frame=window.start_frame,
        end_frame=window.end_frame,
        start_seconds=round(window.start_seconds, 4),
        end_seconds=round(window.end_seconds, 4),
        caption=caption,
        caption_source="sidecar" if caption else "",
        reason=window.reason,
        detail=window.detail,
    )
    if not window.samples:
        return row, b""
    frames = np.stack([sample.clip for sample in window.samples])
    row = _measured(row, window, frames, settings)
    if not row.reason:
        reason, detail = _verdict(row, settings)
        row = replace(row, reason=reason, detail=detail)
    if row.reason:
        return row, b""
    buffer = io.BytesIO()
    write_video(buffer, frames, settings.clip.fps)
    data = buffer.getvalue()
    return replace(row, status="kept", digest=hashlib.sha256(data).hexdigest()), data


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


def _measured(row: ClipRow, window: Window, frames: np.ndarray, settings: Curation) -> ClipRow:
    fps, wanted = settings.clip.fps, settings.motion.gap_seconds
    gap = min(len(frames) - 1, max(1, round(wanted * fps)))
    moved = motion([s.flow for s in window.samples], settings.motion.short_side, gap, wanted * fps / gap)
    sharp = statistics.median(s.sharpness for s in window.samples)
    count, height, width = frames.shape[:3]
    measured = replace(row, sharpness=round(sharp, 4), motion=round(moved, 4), hash=video_hash(frames))
    return replace(measured, width=width, height=height, frames=count, fps=fps)


def _verdict(row: ClipRow, settings: Curation) -> tuple[str, str]:
    """Reason and detail of the first rule that fails; both empty when none does."""

    def out(reason: str, what: str, value: float, sign: str, limit: float) -> tuple[str, str]:
        return reason, f"{what} {value:g} {sign} {limit:g}"

    if settings.motion.minimum is not None and row.motion < settings.motion.minimum:
        return out("static", "motion", row.motion, "<", settings.motion.minimum)
    if settings.motion.maximum is not None and row.motion > settings.motion.maximum:
        return out("too_fast", "motion", row.motion, ">", settings.motion.maximum)
    if settings.sharpness.minimum is not None and row.sharpness < settings.sharpness.minimum:
        return out("blurred", "sharpness", row.sharpness, "<", settings.sharpness.minimum)
    if settings.sharpness.maximum is not None and row.sharpness > settings.sharpness.maximum:
        return out("too_sharp", "sharpness", row.sharpness, ">", settings.sharpness.maximum)
    if settings.require_caption and not row.caption:
        return "no_caption", "no caption covers half of the clip"
    return "", ""


def _whole_file(source: SourceFile, reason: str, detail: str) -> ClipRow:
    name = hashlib.sha256(source.name.encode()).hexdigest()[:6]
    return ClipRow(f"{source.digest[:12]}-file-{name}", source.name, source.digest, reason=reason, detail=detail)
