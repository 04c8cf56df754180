"""A contact sheet that drops clips, distorts them or mixes up their marks would mislead whoever looks at it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mugv.media.sheet import PAD, RIGHT, UNSURE, WRONG, Strip, contact_sheet, draw_moving, draw_sheet

RED, BLUE = (200, 20, 20), (20, 20, 200)


def plain(colour: tuple[int, int, int], frames: int = 5, height: int = 32, width: int = 32) -> np.ndarray:
    return np.tile(np.asarray(colour, np.uint8), (frames, height, width, 1))


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def share(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image - np.asarray(colour)).max(axis=-1) <= 6).sum())


def test_every_clip_gets_its_frames_on_the_sheet(tmp_path):
    contact_sheet([plain(RED), plain(BLUE), plain(RED)], ["one", "two", "three"], tmp_path / "sheet.png", columns_frames=4)
    image = pixels(tmp_path / "sheet.png")
    assert share(image, RED) == 2 * 4 * 104 * 104
    assert share(image, BLUE) == 4 * 104 * 104


def test_first_and_last_frame_are_shown(tmp_path):
    clip = np.stack([np.full((16, 16, 3), 40 * t, np.uint8) for t in range(6)])
    contact_sheet([clip], [""], tmp_path / "sheet.png", columns_frames=2)
    row = pixels(tmp_path / "sheet.png")[80, :, 0]
    assert (row[PAD], row[PAD + 104 + 4]) == (0, 200)


def test_wide_clips_keep_their_aspect_and_the_page_its_width(tmp_path):
    draw_sheet([Strip(plain(RED, height=36, width=64), "wide")] * 3, tmp_path / "sheet.png")
    image = pixels(tmp_path / "sheet.png")
    assert image.shape[1] <= 1400
    assert share(image, RED) == 3 * 6 * 104 * 185


def test_marks_show_right_wrong_and_unsure(tmp_path):
    marks = {"colour": True, "shape": False, "direction": None}
    draw_sheet([Strip(plain((0, 0, 0)), "x", marks=marks)], tmp_path / "marked.png")
    draw_sheet([Strip(plain((0, 0, 0)), "x")], tmp_path / "bare.png")
    for colour in (RIGHT, WRONG, UNSURE):
        assert share(pixels(tmp_path / "marked.png"), colour) > 60
        assert share(pixels(tmp_path / "bare.png"), colour) < 10


def test_a_long_caption_does_not_run_into_the_next_clip(tmp_path):
    draw_sheet([Strip(plain(RED), "word " * 200, marks={"colour": True}), Strip(plain(RED), "")], tmp_path / "sheet.png")
    image = pixels(tmp_path / "sheet.png")
    second_heading = image[PAD : PAD + 20, PAD + 6 * 108 + 4 :]
    assert (second_heading == 255).all()


@pytest.mark.parametrize("name", ["moving.webp", "moving.gif"])
def test_moving_sheet_has_every_frame_and_repeats(tmp_path, name):
    clip = np.stack([np.full((16, 16, 3), 30 * t, np.uint8) for t in range(7)])
    draw_moving([Strip(clip, "grey"), Strip(plain(RED, frames=3), "short")], tmp_path / name, fps=12)
    image = Image.open(tmp_path / name)
    assert (image.n_frames, image.info["loop"]) == (7, 0)


def test_moving_sheet_as_video_keeps_every_frame(tmp_path):
    from mugv.media.decode import read_video

    draw_moving([Strip(plain(RED, frames=9), "red")], tmp_path / "moving.mp4", fps=12)
    frames, fps = read_video(tmp_path / "moving.mp4")
    assert (len(frames), fps) == (9, 12)
    assert np.abs(frames[4, 40, 60].astype(int) - RED).max() < 25


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="1 captions for 2 clips"):
        contact_sheet([plain(RED)] * 2, ["one"], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="at least one clip"):
        contact_sheet([], [], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match=r"moving\.avi"):
        draw_moving([Strip(plain(RED), "")], tmp_path / "moving.avi", fps=12)
