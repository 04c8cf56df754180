"""Accuracy of curation on footage with known truth, on the Sintel trailer and on the motorcycle clip. See benchmarks.curation."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.curation_figures import ROOT, Figure
from benchmarks.curation_truth import DEFECTS, Boundary, Score, boundaries, judge_boundaries, judge_clips, missing_clips, spanning
from mugv.curation.merge import merge
from mugv.curation.rows import ClipRow
from mugv.curation.shots import tag_frames
from mugv.curation.source import curate_source
from mugv.curation.sources_read import read_sources
from mugv.curation.windows import shot_rule
from mugv.media.decode import VideoReader
from mugv.recipe.curation import Curation

CUTS = ROOT / "tests" / "data" / "sintel_trailer_cuts.json"


@dataclass(frozen=True)
class Found:
    """What the detector marks in a file."""

    boundaries: list[Boundary]
    edges: list[int]
    """First frames of all runs: shots, transitions, black."""
    frames: int


def found_boundaries(path: Path, settings: Curation) -> Found:
    """Run the detector over a file."""
    reader = VideoReader(path)
    frames = iter(reader)
    first = next(frames)
    assert reader.info is not None
    tagged = list(tag_frames(itertools.chain([first], frames), reader.info.fps, shot_rule(path.name, settings)))
    edges = [k for k in range(1, len(tagged)) if tagged[k].shot != tagged[k - 1].shot]
    return Found(boundaries(tagged), edges, reader.count)


def curated_rows(folder: Path, settings: Curation, names: Sequence[str] | None = None) -> list[ClipRow]:
    """Rows of a folder (or of some of its files) in their final form: scores, verdicts, duplicates across files."""
    sources = [source for source in read_sources(str(folder)) if names is None or source.name in names]
    rows = [item.row for source in sources for item in curate_source(source, folder / source.name, settings)]
    return merge(rows, settings, 0)[0]


def generated(folder: Path, settings: Curation, complain: bool = False) -> list[Figure]:
    """Figures on a folder that benchmarks.curation_footage wrote."""
    known = json.loads((folder / "truth.json").read_text())
    rows = curated_rows(folder, settings, list(known["files"]))
    cuts, gradual, spans = Score(), Score(), []
    for name, truth in known["files"].items():
        judge_boundaries(name, truth, found_boundaries(folder / name, settings).boundaries, cuts, gradual)
        spans += spanning(name, truth, [row for row in rows if row.source == name])
    caught = judge_clips(known, rows)
    room, missing = missing_clips(known, rows, settings.clip.frames / settings.clip.fps, settings.shot.trim_frames)
    if complain:
        for line in (*cuts.wrong, *gradual.wrong, *spans, *caught.wrong):
            print("  " + line)
    shots = sum(len(truth["shots"]) for truth in known["files"].values())
    figures = [
        Figure("cut recall", cuts.recall, 0.99, note=f"{cuts.found} of {cuts.truth}; {shots} shots"),
        Figure("cut precision", cuts.precision, 0.99, note=f"{cuts.false} false"),
        Figure("gradual transition recall", gradual.recall, 0.9, note=f"{gradual.found} of {gradual.truth}"),
        Figure("gradual transition precision", gradual.precision, 0.9, note=f"{gradual.false} false"),
        Figure("kept clips that span a transition", len(spans), 0, False, f"of {sum(r.status == 'kept' for r in rows)} kept"),
    ]
    for kind in DEFECTS:
        figures.append(Figure(f"{kind} caught", caught.share(kind), 0.95, note=_said(caught, kind)))
    lost = (caught.gone["clean"] + missing) / max(1, caught.clips["clean"] + missing)
    figures.append(Figure("clean clips lost", lost, 0.02, False, f"{_said(caught, 'clean')}; {missing} of {room} never cut"))
    if complain:
        print("  not judged: " + "; ".join(f"{kind}: {_said(caught, kind)}" for kind in caught.clips if kind not in (*DEFECTS, "clean")))
    return figures


def _said(caught: Any, kind: str) -> str:
    return f"{caught.clips[kind]} clips: " + ", ".join(f"{reason} {n}" for reason, n in caught.reasons.get(kind, {}).items())


def sintel(folder: Path, settings: Curation, complain: bool = False) -> list[Figure]:
    """Cuts of the trailer against the labels, transitions marked, title and black rejected."""
    labels = json.loads(CUTS.read_text())
    name = labels["file"]
    marks = found_boundaries(folder / name, settings)
    found = marks.boundaries
    rows = curated_rows(folder, settings, [name])
    want = [c["frame"] for c in labels["cuts"]]
    hit = [f for f in want if any(abs(f - edge) <= 1 for edge in marks.edges)]
    false = [b for b in found if b.start == b.end and not _explained(b.start, labels)]
    slow = [g for g in labels["gradual"] if any(b.end > b.start and b.start < g["end"] and g["start"] < b.end for b in found)]
    blank = [
        r for r in rows if r.status == "kept" and any(r.start_frame < s["end"] and s["start"] < r.end_frame for s in labels["no_scene"])
    ]
    spans = spanning(name, {"boundaries": [{"kind": "cut", "start": f, "end": f} for f in want] + labels["gradual"]}, rows)
    if complain:
        print(f"  found: {', '.join(map(_place, found))}\n  missed: {sorted(set(want) - set(hit))}, false: {[b.start for b in false]}")
        for line in spans:
            print("  " + line)
        for row in rows:
            print(f"  {row.start_frame}-{row.end_frame} {row.status} {row.reason} {row.detail}")
    return [
        Figure("sintel: cut recall", len(hit) / len(want), 0.95, note=f"{len(hit)} of {len(want)}"),
        Figure("sintel: cut precision", len(hit) / max(1, len(hit) + len(false)), 0.95, note=f"{len(false)} false"),
        Figure("sintel: fades marked", len(slow) / len(labels["gradual"]), 0.9, note=f"{len(slow)} of {len(labels['gradual'])}"),
        Figure("sintel: kept clips with title or black", len(blank), 0, False),
        Figure("sintel: kept clips that span a cut or a fade", len(spans), 0, False, f"of {sum(r.status == 'kept' for r in rows)} kept"),
        Figure("sintel: rejected rows without a reason", sum(r.status != "kept" and not r.reason for r in rows), 0, False),
    ]


def _place(b: Boundary) -> str:
    return str(b.start) if b.start == b.end else f"{b.start}-{b.end}"


def _explained(frame: int, labels: dict[str, Any]) -> bool:
    """At a labelled cut, or inside a labelled transition (the title stands at once where a fade ends)."""
    slow = any(g["start"] - 1 <= frame <= g["end"] + 1 for g in labels["gradual"])
    return slow or any(abs(frame - c["frame"]) <= 1 for c in labels["cuts"])


def motorcycle(folder: Path, settings: Curation) -> list[Figure]:
    """One shot: no boundary at all."""
    found = found_boundaries(folder / "motorcycle_4k.mp4", settings)
    places = ", ".join(map(_place, found.boundaries))
    return [Figure("motorcycle: boundaries in its one shot", len(found.boundaries), 0, False, f"{found.frames} frames; {places}")]
