"""The figures of `python -m benchmarks.curation accuracy` on a smaller set, with the same bars: a change that loses one shows here."""

import itertools
import json

import numpy as np
import pytest

from benchmarks.curation_accuracy import generated
from benchmarks.curation_defects import decode
from benchmarks.curation_figures import footage_settings
from benchmarks.curation_footage import plan, write
from benchmarks.curation_truth import Boundary, Score, boundaries, judge_boundaries, judge_clips, spanning
from mugv.curation.rows import ClipRow
from mugv.curation.shots import Tagged
from mugv.media.decode import Frame

SIZES = ((270, 480), (240, 426))


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    write(folder, plan(11, "b", 10, 3, 1, 11, SIZES))
    return folder


@pytest.fixture(scope="module")
def figures(footage):
    return {figure.name: figure for figure in generated(footage, footage_settings())}


@pytest.mark.parametrize(
    "name",
    [
        "cut recall",
        "cut precision",
        "gradual transition recall",
        "gradual transition precision",
        "kept clips that span a transition",
        "blur caught",
        "freeze caught",
        "fast caught",
        "duplicate caught",
        "text caught",
        "border caught",
        "corrupt caught",
        "clean clips lost",
    ],
)
def test_figure_falls_short_of_its_bar_on_footage_with_known_truth(figures, name):
    assert figures[name].holds, figures[name].line()


def test_truth_that_does_not_fit_its_file(footage):
    known = json.loads((footage / "truth.json").read_text())
    name = min(known["files"])
    truth, luma = known["files"][name], decode(footage / name)
    assert len(luma) == truth["frames"] == truth["shots"][-1]["end"]
    places = [(b["start"], b["end"]) for b in truth["boundaries"]]
    assert [s["end"] for s in truth["shots"][:-1]] == [a for a, _ in places]
    assert [s["start"] for s in truth["shots"][1:]] == [b for _, b in places]
    change = [float(np.abs(b.astype(int) - a).mean()) for a, b in itertools.pairwise(luma)]
    for b in truth["boundaries"]:
        if b["kind"] == "cut":
            before, at, after = change[b["start"] - 2 : b["start"] + 1]
            assert at > max(before, after), b


def tagged(letters: str) -> list[Tagged]:
    """One letter a frame: capitals a transition, the shot's number changes with the letter."""
    frame, made, shot = Frame.from_rgb(0, 0.0, np.zeros((2, 2, 3), np.uint8)), [], 0
    for k, letter in enumerate(letters):
        shot += k > 0 and letter != letters[k - 1]
        made.append(Tagged(frame, shot, "blend" if letter.isupper() else "shot"))
    return made


def test_boundaries_misread_from_tagged_frames():
    assert boundaries(tagged("aaabbbCCCDDeeF")) == [Boundary(3, 3), Boundary(6, 11), Boundary(13, 14)]


TRUTH = {
    "fps": 24.0,
    "size": [100, 200],
    "touched": [[60, 64]],
    "corrupt": [[60, 62]],
    "boundaries": [{"kind": "cut", "start": 10, "end": 10}, {"kind": "crossfade", "start": 30, "end": 40}],
    "shots": [
        {"start": 0, "end": 10, "kind": "clean", "id": "1"},
        {"start": 10, "end": 30, "kind": "border", "id": "2", "box": [0, 10, 200, 80]},
        {"start": 40, "end": 100, "kind": "freeze", "id": "3", "defect": [70, 80]},
    ],
}


@pytest.mark.parametrize(
    ("found", "cuts", "gradual"),
    [
        ([Boundary(11, 11), Boundary(31, 38)], (1, 0), (1, 0)),
        ([Boundary(12, 12), Boundary(35, 35)], (0, 2), (0, 0)),
        ([Boundary(10, 10), Boundary(10, 10), Boundary(38, 46)], (1, 1), (0, 1)),
        ([Boundary(10, 10), Boundary(28, 33), Boundary(34, 39), Boundary(61, 61)], (1, 0), (1, 1)),
    ],
)
def test_wrong_boundaries_are_not_counted_as_right(found, cuts, gradual):
    scores = Score(), Score()
    judge_boundaries("x", TRUTH, found, *scores)
    assert [(s.found, s.false) for s in scores] == [cuts, gradual]
    assert [s.truth for s in scores] == [1, 1]


def row(start: int, end: int, status: str = "kept", **more: str) -> ClipRow:
    return ClipRow(f"x-{start}", "x", "d", start, end, frames=17, status=status, **more)


def test_kept_clip_over_a_boundary_goes_unseen():
    seen = [len(spanning("x", TRUTH, [r])) for r in (row(8, 12), row(10, 30), row(8, 12, "rejected"), row(28, 33), row(20, 31))]
    assert seen == [1, 0, 0, 1, 0]


def test_clips_are_judged_by_what_their_frames_show():
    rows = [
        row(0, 10),
        row(12, 28, crop="0,10,200,80"),
        row(12, 28, crop="0,30,200,60"),
        row(41, 59),
        row(58, 66),
        row(70, 85),
        row(60, 80, "rejected", reason="corrupt"),
    ]
    caught = judge_clips({"files": {"x": TRUTH}}, rows)
    assert dict(caught.clips) == {"clean": 2, "border": 2, "corrupt": 2, "freeze": 1}
    assert {kind: caught.gone[kind] for kind in caught.clips} == {"clean": 0, "border": 1, "corrupt": 1, "freeze": 0}
