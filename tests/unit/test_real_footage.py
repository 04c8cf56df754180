"""Real films: an excerpt of the Sintel trailer against labels made by eye, and a 4K clip of one shot."""

import json

import pytest

from benchmarks.curation_accuracy import CUTS, motorcycle, sintel
from benchmarks.curation_figures import footage_settings, real_videos

pytestmark = pytest.mark.skipif(real_videos() is None, reason="no folder of real footage: set MUGV_REAL_VIDEOS")


@pytest.fixture(scope="module")
def figures():
    folder = real_videos()
    made = [*sintel(folder, footage_settings()), *motorcycle(folder, footage_settings())]
    return {figure.name: figure for figure in made}


@pytest.mark.parametrize(
    "name",
    [
        "sintel: cut recall",
        "sintel: cut precision",
        "sintel: fades marked",
        "sintel: kept clips with title or black",
        "sintel: kept clips that span a cut or a fade",
        "sintel: rejected rows without a reason",
        "motorcycle: boundaries in its one shot",
    ],
)
def test_real_film_is_cut_where_no_person_sees_it_or_not_where_one_does(figures, name):
    assert figures[name].holds, figures[name].line()


def test_labels_outside_of_the_excerpt():
    labels = json.loads(CUTS.read_text())
    frames = [c["frame"] for c in labels["cuts"]]
    assert frames == sorted(set(frames))
    spans = [(s["start"], s["end"]) for key in ("gradual", "no_scene") for s in labels[key]]
    assert all(0 <= a < b <= labels["frames"] for a, b in [*spans, (frames[0], frames[-1])])
