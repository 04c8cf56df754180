"""Overlaid text is told from what a scene shows: with the real detection network where its package is installed."""

import importlib.util
import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from score_tools import ArrayClip
from test_scores import pan, view

from mugv.curation.scores import build_scores
from mugv.curation.scores.text import candidates, load_detector, text_boxes, text_of
from mugv.recipe.curation import Curation, OverlaidText

INSTALLED = pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="rapidocr is not installed")


def with_text(clip: ArrayClip, words: str, size: int, place: tuple[int, int], first: int = 0) -> ArrayClip:
    """The words over every frame from `first` on."""
    frames = clip.pictures.copy()
    for k in range(first, len(frames)):
        picture = Image.fromarray(frames[k])
        font = ImageFont.load_default(size)
        ImageDraw.Draw(picture).text(place, words, "white", font, stroke_width=1, stroke_fill="black")
        frames[k] = np.asarray(picture)
    return ArrayClip(frames)


def score(clip: ArrayClip) -> float:
    text = text_of(OverlaidText())
    assert text is not None
    return text(clip)


@INSTALLED
@pytest.mark.parametrize(
    ("words", "size", "place", "first"),
    [
        ("so that we never left the harbour", 24, (120, 310), 0),
        ("Old Harbour", 26, (480, 20), 0),
        ("BREAKING NEWS", 48, (140, 120), 0),
        ("the road was long and quiet", 24, (150, 310), 11),
    ],
)
@pytest.mark.parametrize("speed", [0.0, 5.0])
def test_overlaid_text_is_found_over_still_and_moving_pictures(words, size, place, first, speed):
    assert score(with_text(pan(speed), words, size, place, first)) > OverlaidText().maximum


@INSTALLED
@pytest.mark.parametrize("speed", [0.0, 1.0, 5.0])
def test_a_textured_scene_has_no_text(speed):
    assert score(pan(speed)) == 0


@INSTALLED
def test_writing_that_moves_with_the_scene_is_not_overlaid():
    words = Image.fromarray(view(0, 0, 360, 1400))
    ImageDraw.Draw(words).text((300, 150), "HOTEL CALIFORNIA", "white", ImageFont.load_default(48))
    sign = np.asarray(words)
    assert score(ArrayClip(np.stack([sign[:, 12 * k : 12 * k + 640] for k in range(17)]))) == 0


@INSTALLED
def test_the_area_of_the_boxes_is_near_that_of_the_words():
    clip = with_text(pan(4), "BREAKING NEWS", 60, (60, 140))
    box = ImageFont.load_default(60).getbbox("BREAKING NEWS")
    words = (box[2] - box[0]) * (box[3] - box[1]) / (360 * 640)
    assert 0.6 * words < score(clip) < 2.2 * words


@INSTALLED
def test_the_network_is_not_run_on_pictures_without_candidates():
    text = text_of(OverlaidText())
    text.detector = lambda region: pytest.fail("the network was run")
    assert text(pan(6)) == 0


def test_plain_pictures_have_no_candidates_and_boxes_come_from_sure_pixels_alone():
    assert candidates([np.zeros((192, 320), np.int16)] * 3) == []
    sure = np.zeros((64, 128), np.float32)
    sure[20:30, 20:100], sure[40:50, 20:100] = 0.9, 0.4
    ((left, top, width, height),) = text_boxes(sure)
    assert left < 20
    assert top < 20
    assert left + width > 100
    assert 30 < top + height < 44


def test_a_missing_package_turns_the_score_off_and_says_so_once(monkeypatch, caplog):
    load_detector.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        names = [s.name for s in build_scores(Curation())]
        build_scores(Curation())
    load_detector.cache_clear()
    assert "text" not in names
    assert [r.message for r in caplog.records if "rapidocr" in r.message] == [caplog.records[0].message]


def test_the_recipe_turns_the_score_off():
    assert text_of(OverlaidText(detector="off")) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 5)])
def test_a_picture_too_small_for_writing_has_none(size):
    """OpenCV took a picture of one pixel for a number."""
    edges = [np.full(size, value, np.int16) for value in (900, -900, 900)]
    assert candidates(edges) == []
