"""Each score on pictures whose answer is known, at the sizes of real footage."""

import cv2
import numpy as np
import pytest
from score_tools import ArrayClip

from mugv.curation.scores import build_scores, find_borders, measure, pictures_needed
from mugv.curation.scores.blockiness import blockiness
from mugv.curation.scores.motion import dis_flow
from mugv.media.decode import read_video
from mugv.media.encode import write_video
from mugv.media.probe import VideoInfo
from mugv.recipe.curation import Curation

SETTINGS = Curation(text={"detector": "off"})
SCORES = {score.name: score for score in build_scores(SETTINGS)}


def world(seed: int = 0, side: int = 1400) -> np.ndarray:
    """A picture with detail at every scale, uint8 [side, side, 3]."""
    rng, field = np.random.default_rng(seed), np.zeros((side, side, 3), np.float32)
    for cell in (2, 4, 8, 16, 32, 64, 128):
        grid = rng.standard_normal((side // cell + 2, side // cell + 2, 3)).astype(np.float32)
        field += cell**0.7 * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(120 + 45 * field / field.std(), 0, 255).astype(np.uint8)


WORLD = world()


def view(x: float, y: float, height: int = 360, width: int = 640) -> np.ndarray:
    move = np.float32([[1, 0, -x], [0, 1, -y]])
    return cv2.warpAffine(WORLD, move, (width, height), flags=cv2.INTER_LINEAR)


def pan(pixels: float, count: int = 17, shake: float = 0.0, start: tuple[float, float] = (100, 300)) -> ArrayClip:
    """A camera that moves `pixels` to the right a frame, and by `shake` up and down."""
    return ArrayClip(np.stack([view(start[0] + pixels * k, start[1] + shake * (-1) ** k) for k in range(count)]))


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0, 10.0, 20.0, 40.0, 60.0])
def test_motion_is_in_pixels_in_the_recipes_gap_and_does_not_saturate(shift):
    clip = pan(shift / 1.5, count=9)  # 12 frames a second: 0.125 s are a frame and a half
    assert SCORES["motion"](clip) == pytest.approx(shift, rel=0.12, abs=0.15)


@pytest.mark.parametrize("jump", [90, 140])
def test_footage_that_is_far_too_fast_is_not_taken_for_slow(jump):
    assert SCORES["motion"](pan(jump, count=5)) > 0.8 * 1.5 * jump


def test_motion_is_the_same_at_any_size_of_the_source():
    clip = pan(4)
    large = ArrayClip(np.stack([cv2.resize(f, (1280, 720), interpolation=cv2.INTER_CUBIC) for f in clip.pictures]))
    assert SCORES["motion"](large) == pytest.approx(SCORES["motion"](clip), rel=0.08)


def test_a_still_picture_has_no_motion_and_noise_is_no_speed_change():
    rng = np.random.default_rng(1)
    noisy = np.clip(view(50, 50) + rng.normal(0, 2, (17, 360, 640, 3)), 0, 255).astype(np.uint8)
    assert SCORES["motion"](ArrayClip(np.stack([view(50, 50)] * 17))) == 0
    assert SCORES["motion"](ArrayClip(noisy)) < 0.3
    assert SCORES["speed_change"](ArrayClip(noisy)) < 0.2


def test_speed_change_is_counted_in_octaves():
    places = np.cumsum([2.0] * 8 + [8.0] * 9)
    ramp = ArrayClip(np.stack([view(100 + x, 300) for x in places]))
    assert SCORES["speed_change"](ramp) == pytest.approx(2, abs=0.2)
    assert SCORES["speed_change"](pan(4)) < 0.2


def test_a_steady_pan_is_no_shake_and_shake_is_measured_in_pixels():
    assert SCORES["shake"](pan(6)) < 1
    assert SCORES["shake"](pan(0, shake=3)) == pytest.approx(12, rel=0.15)


def test_an_object_that_moves_before_a_still_camera_is_no_shake():
    frames = np.stack([view(50, 50)] * 17)
    for k, frame in enumerate(frames):
        cv2.circle(frame, (60 + 30 * k, 180), 40, (250, 20, 20), -1)
    assert SCORES["shake"](ArrayClip(frames)) < 1


def test_freeze_is_the_longest_run_of_one_picture_through_a_coder(tmp_path):
    pictures = [view(100 + 6 * min(k, 8), 300) for k in range(17)]
    write_video(tmp_path / "a.mp4", np.stack(pictures), 12, crf=26)
    assert SCORES["freeze"](ArrayClip(read_video(tmp_path / "a.mp4")[0])) == pytest.approx(0.5, abs=0.07)
    assert SCORES["freeze"](pan(2)) == 0


def test_slow_motion_is_not_frozen():
    assert SCORES["freeze"](pan(0.5)) < 0.28


def test_the_default_limit_lies_between_focus_and_blur():
    tiles = np.kron(np.random.default_rng(2).integers(60, 190, (24, 40, 3)), np.ones((15, 16, 1))).astype(np.uint8)[:360]
    sharp = ArrayClip(np.stack([np.roll(tiles, 3 * k, axis=1) for k in range(5)]))
    soft = ArrayClip(np.stack([cv2.GaussianBlur(f, (0, 0), 4) for f in sharp.pictures]))
    assert SCORES["sharpness"](soft) < SETTINGS.sharpness.minimum < SCORES["sharpness"](sharp) / 10


def flat(rgb: tuple[int, int, int], count: int = 3) -> ArrayClip:
    return ArrayClip(np.full((count, 120, 160, 3), rgb, np.uint8))


def test_exposure_contrast_and_saturation_of_plain_pictures():
    assert SCORES["exposure"](flat((200, 200, 200))) == 200
    assert SCORES["contrast"](flat((200, 200, 200))) == 0
    assert SCORES["saturation"](flat((200, 200, 200))) == 0
    assert SCORES["saturation"](flat((250, 50, 50))) == 200
    halves = flat((20, 20, 20))
    halves.pictures[:, :60] = 220
    assert SCORES["exposure"](halves) == pytest.approx(120, abs=1)
    assert SCORES["contrast"](halves) == 200


def test_blockiness_sees_the_grid_wherever_a_crop_puts_it():
    grey = cv2.cvtColor(view(200, 200), cv2.COLOR_RGB2GRAY)
    blocks = cv2.resize(cv2.resize(grey, (80, 45), interpolation=cv2.INTER_AREA), (640, 360), interpolation=cv2.INTER_NEAREST)
    assert blockiness(blocks) > 4
    assert blockiness(blocks[3:, 5:]) > 4
    assert blockiness(grey) < 1.1
    assert blockiness(np.full((64, 64), 9, np.uint8)) == 1


def framed(left: int, top: int, right: int, bottom: int, dark: float = 1.0) -> ArrayClip:
    """A pan inside black bars; `dark` scales its light."""
    pictures = np.zeros((9, 360, 640, 3), np.uint8)
    for k in range(9):
        pictures[k, top : 360 - bottom, left : 640 - right] = view(100 + 5 * k, 300, 360 - top - bottom, 640 - left - right) * dark
    return ArrayClip(pictures)


@pytest.mark.parametrize("bars", [(0, 46, 0, 46), (80, 0, 80, 0), (60, 40, 60, 40), (0, 30, 0, 52)])
def test_black_bars_are_cut_to_their_edge_and_not_into_the_picture(bars):
    left, top, right, bottom = bars
    clip, box, values = measure(framed(*bars), list(SCORES.values()), SETTINGS)
    assert box is not None
    x, y, width, height = box
    for edge, bar in ((x, left), (y, top), (640 - x - width, right), (360 - y - height, bottom)):
        assert bar <= edge <= bar + 4 if bar else edge <= 1
    assert clip.size == (height, width)
    assert values["border"] == pytest.approx(1 - width * height / (640 * 360), abs=1e-4)
    assert values["aspect"] == pytest.approx(width / height, abs=1e-3)


def test_a_picture_without_bars_is_not_cut_however_dark():
    assert find_borders(pan(3), SETTINGS) is None
    night = np.clip(np.linspace(0, 60, 360)[:, None, None] + np.zeros((9, 360, 640, 3)), 0, 255).astype(np.uint8)
    assert find_borders(ArrayClip(night), SETTINGS) is None
    assert find_borders(flat((0, 0, 0)), SETTINGS) is None


def test_the_recipe_can_keep_the_bars_and_score_them():
    settings = Curation(border={"crop": False, "maximum": 0.1}, text={"detector": "off"})
    clip, box, values = measure(framed(0, 46, 0, 46), build_scores(settings), settings)
    assert box is None
    assert clip.size == (360, 640)
    assert values["border"] > 0.2


def test_facts_of_the_source_come_from_its_headers():
    info = VideoInfo("h264", 640, 360, 25.0, 250, 10.0, 0, bit_rate=1_152_000)
    clip = ArrayClip(np.stack([view(0, 0)] * 3), info=info)
    found = {name: SCORES[name](clip) for name in ("bits_per_pixel", "source_seconds", "source_fps", "aspect")}
    assert found == {"bits_per_pixel": 0.2, "source_seconds": 10.0, "source_fps": 25.0, "aspect": pytest.approx(16 / 9)}
    unknown = ArrayClip(np.stack([view(0, 0)] * 3), info=VideoInfo("h264", 640, 360, 0.0, 0, 0.0, 0))
    assert SCORES["bits_per_pixel"](unknown) is None


def test_every_score_declares_the_largest_picture_that_it_reads():
    class Watched(ArrayClip):
        asked = 0

        def luma(self, k, short_side):
            Watched.asked = max(Watched.asked, short_side)
            return super().luma(k, short_side)

        def rgb(self, k, short_side):
            Watched.asked = max(Watched.asked, short_side)
            return super().rgb(k, short_side)

    clip = Watched(pan(3).pictures)
    for score in SCORES.values():
        Watched.asked = 0
        score(clip)
        assert Watched.asked <= score.input.short_side, score.name
    assert set(pictures_needed(list(SCORES.values()))) == {(s.input.short_side, s.input.largest) for s in SCORES.values()}


def test_blockiness_asks_no_decoder_to_keep_a_4k_frame_whole():
    info = VideoInfo("raw", 3840, 2160, 12.0, 3, 0.25, 0)
    assert SCORES["blockiness"](ArrayClip(pan(3).pictures, info=info)) is None
    assert SCORES["blockiness"].input.largest == SCORES["blockiness"].input.short_side


@pytest.mark.parametrize("shape", [(1, 360, 640), (2, 16, 16), (3, 2, 40), (9, 400, 16), (3, 120, 120)])
def test_pictures_of_any_size_and_clips_of_any_length_are_scored(shape):
    frames = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    scores = build_scores(Curation())
    _, _, values = measure(ArrayClip(frames), scores, Curation())
    assert set(values) == {"border", *(score.name for score in scores)}
    assert all(value is None or np.isfinite(value) for value in values.values())
    assert (values["motion"] is None) == (shape[0] == 1 or min(shape[1:]) < 12)


@pytest.mark.parametrize("rows", [12, 16, 24, 32, 47])
@pytest.mark.parametrize("columns", [48, 96, 320, 2048, 4096])
def test_the_flow_of_a_low_and_wide_picture_does_not_crash(rows, columns):
    """A ticker of 320x24 pixels ended the whole run with a segmentation fault of OpenCV."""
    picture = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (rows, columns)).astype(np.float32), (0, 0), 2)
    first = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    assert dis_flow(first, np.roll(first, 1, axis=1)) == pytest.approx(1.0, abs=0.45)
