"""What curation found against the truth: cuts, gradual transitions, clips that span one, defects caught, clean clips lost.

A cut is found when a detected cut lies within 1 frame of it; a gradual transition when the middle of a detected one lies within half its
length of its own middle. Further detections inside a transition that was found are parts of it (black between two slopes), any other
detection is false: a cut reported inside a cross-fade does not find it and counts against the cuts. Frames that damage touches are
left out of these figures. A clip spans a cut when it shows both sides, and a gradual transition when it shows a frame with at least a
tenth of either shot in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

DEFECTS = ("blur", "freeze", "fast", "duplicate", "text", "border", "corrupt")
LEAST_DEFECT = 1 / 3
"""A clip is defective when this share of it shows the defect; with less of it, it is neither clean nor defective."""
MARGIN = 3
"""Frames beside damage in which no boundary is judged."""
BORDER_MARGIN = 0.015
"""A cropped border is caught when each side of the box is right to this share of the picture's side."""


@dataclass(frozen=True)
class Boundary:
    """A change of shot: a cut has start == end."""

    start: int
    end: int

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


class Tagged(Protocol):
    """As mugv.curation.shots gives it."""

    shot: int
    kind: str


class Row(Protocol):
    """The columns of mugv.curation.rows.ClipRow that are used."""

    source: str
    start_frame: int
    end_frame: int
    frames: int
    crop: str
    status: str
    reason: str
    detail: str


@dataclass
class Score:
    """Hits and misses of one kind of boundary."""

    truth: int = 0
    found: int = 0
    false: int = 0
    wrong: list[str] = field(default_factory=list)
    """One line for each boundary that was missed or invented."""

    @property
    def recall(self) -> float:
        return self.found / self.truth if self.truth else 1.0

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.false) if self.found + self.false else 1.0


def boundaries(tagged: Iterable[Tagged]) -> list[Boundary]:
    """Boundaries of a file from its tagged frames in order. Transition runs that touch are one; at the file's ends they count too."""
    found: list[Boundary] = []
    last: tuple[int, bool] | None = None
    begun, k = 0, 0
    for k, frame in enumerate(tagged):
        inside = frame.kind in ("blend", "black")
        if inside and (last is None or not last[1]):
            begun = k
        elif not inside and last is not None and last[1]:
            found.append(Boundary(begun, k))
        elif not inside and last is not None and frame.shot != last[0]:
            found.append(Boundary(k, k))
        last = frame.shot, inside
    return [*found, Boundary(begun, k + 1)] if last is not None and last[1] else found


def judge_boundaries(name: str, truth: dict[str, Any], found: Sequence[Boundary], cuts: Score, gradual: Score) -> None:
    """Count one file's boundaries into the two scores. `truth` as written by benchmarks.curation_footage."""
    hidden = [(a - MARGIN, b + MARGIN) for a, b in truth.get("touched", [])]
    real = [(b["kind"], Boundary(b["start"], b["end"])) for b in truth["boundaries"] if not _touches(b["start"], b["end"], hidden)]
    left = [b for b in found if not _touches(b.start, b.end, hidden)]
    for kind, want in real:
        score = cuts if kind == "cut" else gradual
        score.truth += 1
        reach = 1.0 if kind == "cut" else max(1.0, (want.end - want.start) / 2)
        near = [b for b in left if (b.start == b.end) == (kind == "cut") and abs(b.middle - want.middle) <= reach]
        if not near:
            score.wrong.append(f"{name} {want.start}-{want.end}: {kind} missed")
            continue
        score.found += 1
        left.remove(min(near, key=lambda b: abs(b.middle - want.middle)))
        if kind != "cut":
            left = [b for b in left if not want.start - 1 <= b.start <= b.end <= want.end + 1]
    for b in left:
        score = cuts if b.start == b.end else gradual
        score.false += 1
        score.wrong.append(f"{name} {b.start}-{b.end}: false {'cut' if b.start == b.end else 'gradual transition'} in {_where(truth, b)}")


def _touches(start: int, end: int, spans: Iterable[tuple[int, int]]) -> bool:
    return any(a < max(end, start + 1) and start < b for a, b in spans)


def _where(truth: dict[str, Any], b: Boundary) -> str:
    inside = [f"{s['kind']} shot {s['start']}-{s['end']}" for s in truth["shots"] if s["start"] <= b.middle <= s["end"]]
    inside += [f"flash {a}-{z}" for a, z in truth.get("flashes", []) if a - 3 <= b.middle <= z + 3]
    near = [f"{t['kind']} {t['start']}-{t['end']}" for t in truth["boundaries"] if t["start"] - 12 <= b.middle <= t["end"] + 12]
    return ", ".join(inside + near)


def spanning(name: str, truth: dict[str, Any], rows: Iterable[Row]) -> list[str]:
    """One line for each kept clip of a file that spans a boundary."""
    lines = []
    for row in rows:
        for b in truth["boundaries"] if row.status == "kept" else []:
            first, past = _blended(b)
            if (first == past and row.start_frame < first < row.end_frame) or (row.start_frame < past and first < row.end_frame):
                lines.append(f"{name} {row.start_frame}-{row.end_frame}: kept, spans the {b['kind']} {b['start']}-{b['end']}")
    return lines


def _blended(b: dict[str, Any]) -> tuple[int, int]:
    """Frames with at least a tenth of either shot. A fade shows nothing else than one shot and black, so all of it but its ends."""
    length = b["end"] - b["start"]
    edge = int(0.1 * (length + 1)) if b["kind"] == "crossfade" else int(0.05 * length)
    return (b["start"] + edge, b["end"] - edge) if length else (b["start"], b["end"])


@dataclass
class Caught:
    """Clips of each kind, and what became of them."""

    clips: Counter[str] = field(default_factory=Counter)
    gone: Counter[str] = field(default_factory=Counter)
    """Defects: caught. Clean: lost."""
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def count(self, kind: str, gone: bool, row: Row, complain: bool) -> None:
        self.clips[kind] += 1
        self.gone[kind] += gone
        self.reasons.setdefault(kind, Counter())[row.reason or "kept"] += 1
        if complain:
            self.wrong.append(f"{row.source} {row.start_frame}-{row.end_frame}: {kind} {row.reason or 'kept'} {row.detail}".rstrip())

    def share(self, kind: str) -> float:
        return self.gone[kind] / self.clips[kind] if self.clips[kind] else 1.0


def judge_clips(known: dict[str, Any], rows: Sequence[Row]) -> Caught:
    """Every clip of every file against what it shows. A clip that lies in no single shot is judged by `spanning` alone."""
    caught, homes = Caught(), _homes(known)
    kept = [row for row in rows if row.status == "kept"]
    for row in rows:
        truth = known["files"].get(row.source)
        shot = truth and _shot_of(row, truth)
        if not shot or not row.frames:
            continue
        kind = _kind(row, shot, truth)
        if kind == "duplicate":
            gone = row.status != "kept" or not _twin_kept(row, shot, known, kept)
        elif kind == "border":
            gone = row.status != "kept" or _right_crop(row, shot, truth)
        else:
            gone = row.status != "kept"
        if kind == "clean" and row.reason == "duplicate" and _is_original(shot, homes):
            continue
        caught.count(kind, gone, row, complain=gone if kind == "clean" else kind in DEFECTS and not gone)
    return caught


def missing_clips(known: dict[str, Any], rows: Sequence[Row], seconds: float, trim: int) -> tuple[int, int]:
    """(clips that undamaged clean shots have room for, how many of these never came, not even rejected)."""
    room = missing = 0
    for name, truth in known["files"].items():
        for shot in truth["shots"]:
            if shot["kind"] != "clean" or _touches(shot["start"], shot["end"], truth["touched"]):
                continue
            fits = int(((shot["end"] - shot["start"] - 2 * trim - 2) / truth["fps"]) / seconds)
            came = sum(r.source == name and bool(r.frames) and _shot_of(r, truth) is shot for r in rows)
            room, missing = room + fits, missing + max(0, fits - came)
    return room, missing


def _homes(known: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {shot["id"]: (name, shot) for name, truth in known["files"].items() for shot in truth["shots"]}


def _shot_of(row: Row, truth: dict[str, Any]) -> dict[str, Any] | None:
    """The shot that holds the whole clip, up to two frames at either end."""
    return next((s for s in truth["shots"] if s["start"] - 2 <= row.start_frame and row.end_frame <= s["end"] + 2), None)


def _kind(row: Row, shot: dict[str, Any], truth: dict[str, Any]) -> str:
    """clean, a defect, a tempting kind, or `partly` for what is not clear."""
    length = row.end_frame - row.start_frame

    def share(spans: Iterable[Sequence[int]]) -> float:
        return sum(max(0, min(b, row.end_frame) - max(a, row.start_frame)) for a, b in spans) / length

    if share(truth["corrupt"]):
        return "corrupt"
    if share(truth["touched"]):
        return "partly"
    kind = "clean" if shot["kind"] == "corrupt" else str(shot["kind"])
    if "defect" in shot:
        part = share([shot["defect"]])
        return kind if part >= LEAST_DEFECT else "partly" if part else "clean"
    return kind


def _twin_kept(row: Row, shot: dict[str, Any], known: dict[str, Any], kept: Iterable[Row]) -> bool:
    """Whether a kept clip of the original shows more than half of the same stretch of the take; the two files' rates may differ."""
    name, original = _homes(known)[shot["of"]]
    here, there = known["files"][row.source]["fps"], known["files"][name]["fps"]
    start, end = (original["start"] + (k - shot["start"] + shot["shift"]) * there / here for k in (row.start_frame, row.end_frame))
    return any(r.source == name and 2 * (min(end, r.end_frame) - max(start, r.start_frame)) > end - start for r in kept)


def _is_original(shot: dict[str, Any], homes: dict[str, tuple[str, dict[str, Any]]]) -> bool:
    return any(other.get("of") == shot["id"] for _, other in homes.values())


def _right_crop(row: Row, shot: dict[str, Any], truth: dict[str, Any]) -> bool:
    if not row.crop:
        return False
    rows, columns = truth["size"]
    (left, top, width, height), got = shot["box"], [int(v) for v in row.crop.split(",")]
    want = (left, top, left + width, top + height)
    have = (got[0], got[1], got[0] + got[2], got[1] + got[3])
    return all(abs(a - b) <= max(2, BORDER_MARGIN * side) for a, b, side in zip(want, have, (columns, rows) * 2, strict=True))
