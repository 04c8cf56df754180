"""The shot detectors on made footage: what must be a boundary, and what must not."""

import cv2
import numpy as np
import pytest
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from mugv.curation.shots import tag_frames
from mugv.curation.shots.cuts import ContentScore
from mugv.curation.shots.views import flow_between
from mugv.curation.windows import cut_windows, shot_rule
from mugv.media.decode import Frame
from mugv.media.probe import VideoInfo
from mugv.recipe.curation import ClipFormat, Curation, ShotSplit

HEIGHT, WIDTH = 108, 192
LETTERS = {"shot": "s", "edge": "e", "blend": "b", "black": "B"}


def texture(seed: int, level: float = 120, contrast: float = 45, slope: float = 1.5) -> np.ndarray:
    """A natural-looking still, float32 [3 * HEIGHT, 3 * WIDTH, 3]: noise whose power falls with frequency."""
    rng = np.random.default_rng(seed)
    rows, columns = 3 * HEIGHT, 3 * WIDTH
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None])
    frequency[0, 0] = 1
    noise = np.stack([np.fft.ifft2(np.fft.fft2(rng.normal(size=(rows, columns))) / frequency**slope).real for _ in range(3)], -1)
    noise = (noise - noise.mean((0, 1))) / noise.std((0, 1))
    return np.clip(noise * contrast + level + rng.uniform(-40, 40, 3), 0, 255).astype(np.float32)


def moving(seed: int, frames: int, across: float = 1.0, down: float = 0.3, zoom: float = 0.0, **look: float) -> np.ndarray:
    """A camera that pans and zooms over a still, float32 [T, HEIGHT, WIDTH, 3]."""
    still, made = texture(seed, **look), []
    for t in range(frames):
        scale = 1 + zoom * t
        left, top = WIDTH / 2 + across * t, HEIGHT / 2 + down * t
        matrix = np.array([[scale, 0, left], [0, scale, top]])
        made.append(
            cv2.warpAffine(still, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
        )
    return np.stack(made)


def tags(frames: np.ndarray, split: ShotSplit | None = None, fps: float = 24) -> str:
    """s shot, e edge, b blend, B black, one letter a frame."""
    noise = np.random.default_rng(0).normal(0, 1, frames.shape)
    pictures = np.clip(frames + noise, 0, 255).astype(np.uint8)
    stream = (Frame.from_rgb(k, k / fps, picture) for k, picture in enumerate(pictures))
    return "".join(LETTERS[t.kind] for t in tag_frames(stream, fps, split or ShotSplit()))


def joined(first: np.ndarray, last: np.ndarray, length: int) -> np.ndarray:
    """The end of one cross-faded with the start of the other."""
    share = (np.arange(length) + 1).reshape(-1, 1, 1, 1) / (length + 1)
    return np.concatenate([first[:-length], first[-length:] * (1 - share) + last[:length] * share, last[length:]])


def test_cuts_between_dark_pictures_in_fast_motion_and_next_to_the_ends_are_found():
    parts = [
        moving(1, 3),
        moving(2, 40, across=9),
        moving(3, 40, across=9, level=30, contrast=10),
        moving(4, 30, level=32, contrast=10),
        moving(5, 2),
    ]
    found = tags(np.concatenate(parts))
    starts = np.cumsum([len(part) for part in parts])[:-1]
    assert all(found[start - 1 : start + 1] == "ee" for start in starts)
    assert found.count("e") <= 4 * len(starts)
    assert "b" not in found


@pytest.mark.parametrize("length", [6, 12, 24])
@pytest.mark.parametrize("across", [0.0, 1.5])
def test_a_cross_fade_is_found_whole_though_both_cameras_move(length, across):
    found = tags(joined(moving(1, 50 + length, across), moving(2, 50 + length, -across), length))
    inside = found[50 : 50 + length]
    assert inside.count("b") >= 0.7 * length
    assert "s" not in inside
    assert set(found[: 50 - 6]) == set(found[50 + length + 6 :]) == {"s"}


def test_a_dark_scene_that_comes_out_of_black_or_goes_into_it_is_no_shot_before_it_is_there():
    """Of so little contrast no span of a fade counts."""
    scene = moving(1, 40) * 0.12
    rise = np.linspace(0, 1, 20).reshape(-1, 1, 1, 1)
    out = tags(np.concatenate([moving(2, 30), np.zeros((8, HEIGHT, WIDTH, 3)), scene[:20] * rise, scene[20:]]))
    assert "s" not in out[30:54]
    assert set(out[64:]) == {"s"}
    into = tags(np.concatenate([scene[:20], scene[20:] * rise[::-1], np.zeros((8, HEIGHT, WIDTH, 3)), moving(2, 30)]))
    assert "s" not in into[26:46]
    assert set(into[:8]) == {"s"}


def test_a_mix_of_look_alikes_is_told_by_its_even_steps():
    """Frames and bars around two scenes make them alike; a camera does not start and stop at once."""
    first, last = moving(1, 46, across=0.0, down=0.0), moving(2, 46, across=0.0, down=0.0)
    for scene in (first, last):
        scene[:, :36] = scene[:, -36:] = moving(3, 1)[0, :36]
    found = tags(joined(first, last, 8))
    assert set(found[38:46]) == {"b"}
    assert set(found[:30]) == set(found[54:]) == {"s"}


@pytest.mark.parametrize("colour", [0.0, 255.0])
def test_a_fade_through_black_or_white_takes_its_slopes_with_it(colour):
    first, last = moving(1, 60), moving(2, 60)
    down = np.linspace(1, 0, 12).reshape(-1, 1, 1, 1)
    slope, rise = first[-12:] * down + colour * (1 - down), last[:12] * down[::-1] + colour * (1 - down[::-1])
    found = tags(np.concatenate([first[:-12], slope, np.full_like(slope[:4], colour), rise, last[12:]]))
    assert "s" not in found[50:74]
    assert set(found[:44]) == set(found[80:]) == {"s"}


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_flash_is_no_boundary(length):
    frames = moving(1, 60)
    frames[30 : 30 + length] = frames[30 : 30 + length] * 0.4 + 150
    assert set(tags(frames)) == {"s"}


def undivided(kind: str) -> np.ndarray:
    """60 frames of one shot that changes much."""
    rng = np.random.default_rng(0)
    if kind == "shake":
        return np.stack([np.roll(f, tuple(rng.integers(-3, 4, 2)), (0, 1)) for f in moving(1, 60)])
    if kind == "object":
        crossed = moving(2, 60, across=0).astype(np.uint8)
        for t, frame in enumerate(crossed):
            cv2.circle(frame, (4 * t - 20, 60), 24, (20, 30, 200), -1)
        return crossed.astype(np.float32)
    if kind == "light":
        return moving(3, 60) * (1 + 0.15 * np.sin(np.arange(60) / 5)).reshape(-1, 1, 1, 1)
    if kind == "soft and dark":
        return moving(4, 60, across=2, level=40, contrast=12, slope=2.4)
    return moving(5, 60, across=8) if kind == "pan" else moving(6, 60, zoom=0.006)


@pytest.mark.parametrize("kind", ["shake", "object", "light", "soft and dark", "pan", "zoom"])
def test_what_changes_much_inside_a_shot_is_no_boundary(kind):
    assert set(tags(undivided(kind))) == {"s"}


def test_a_title_card_is_a_shot_of_its_own_and_black_is_black():
    title = np.zeros((30, HEIGHT, WIDTH, 3), np.uint8)
    for frame in title:
        cv2.putText(frame, "mugv", (50, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, (230, 230, 230), 2)
    found = tags(np.concatenate([moving(1, 40), title, np.zeros_like(title[:20]), moving(2, 40)]))
    assert found[39:41] == "ee"
    assert set(found[44:66]) == {"s"}
    assert set(found[70:90]) == {"B"}
    assert set(found[94:]) == {"s"}


def test_sixty_frames_a_second_have_the_boundaries_of_thirty():
    frames = joined(moving(1, 60), moving(2, 60), 12)
    found = tags(frames.repeat(2, 0), fps=60)
    assert "s" not in found[2 * 50 : 2 * 58]
    assert set(found[:88]) == {"s"}


def test_the_first_rule_that_matches_a_source_sets_its_thresholds():
    rules = [{"match": "phone/*", "shot": {"trim_frames": 5}}, {"match": "*", "shot": {"trim_frames": 1}}]
    settings = Curation.model_validate({"per_source": rules})
    assert shot_rule("phone/a.mp4", settings).trim_frames == 5
    assert shot_rule("film.mp4", settings).trim_frames == 1
    assert shot_rule("film.mp4", Curation()).trim_frames == Curation().shot.trim_frames


def test_no_more_of_a_shot_than_its_maximum_becomes_clips():
    stream = (Frame.from_rgb(k, k / 24, f.astype(np.uint8)) for k, f in enumerate(moving(1, 120)))
    split = ShotSplit(maximum_seconds=2.0)
    info = VideoInfo("raw", WIDTH, HEIGHT, 24, 120, 5.0, 0)
    windows = list(cut_windows(tag_frames(stream, 24, split), info, split, ClipFormat(frames=17, fps=24, stride_frames=17)))
    assert [w.start_frame for w in windows if w.clip] == [0, 17]


def test_a_clip_that_touches_damage_is_rejected():
    frames = [Frame.from_rgb(k, k / 24, f.astype(np.uint8)) for k, f in enumerate(moving(1, 60))]
    frames[20].corrupt = True
    info = VideoInfo("raw", WIDTH, HEIGHT, 24, 60, 2.5, 0)
    windows = list(cut_windows(tag_frames(frames, 24, ShotSplit()), info, ShotSplit(), ClipFormat(frames=17, fps=24, stride_frames=17)))
    assert [w.reason for w in windows if w.clip] == ["", "corrupt", ""]


def damaged_frames(pictures: np.ndarray, keys: set[int], fps: float = 24) -> list[int]:
    """Numbers of the frames that the detector takes for damaged."""
    noise = np.random.default_rng(0).normal(0, 1, pictures.shape)
    frames = [Frame.from_rgb(k, k / fps, f) for k, f in enumerate(np.clip(pictures + noise, 0, 255).astype(np.uint8))]
    for k in keys:
        frames[k].key = True
    return [tagged.frame.index for tagged in tag_frames(frames, fps, ShotSplit()) if tagged.frame.corrupt]


def garbage(seed: int) -> np.ndarray:
    """Stripes, as a decoder shows that reads wrong bits."""
    return np.repeat(np.random.default_rng(seed).integers(0, 2, (1, WIDTH // 3, 1)) * 180.0, HEIGHT // 3, axis=0)


@pytest.mark.parametrize("end", [32, 44])
def test_damage_that_the_decoder_missed_is_seen_where_a_key_frame_ends_it(end):
    bad = np.s_[20:end, HEIGHT // 3 * 2 :, : WIDTH // 3]
    pictures = moving(1, 60)
    pictures[bad] = garbage(2)
    assert damaged_frames(pictures, {0, end}) == list(range(20, end)), "it began between two key frames"
    pictures = np.concatenate([moving(3, 20), moving(1, 40)])
    pictures[bad] = garbage(2)
    assert damaged_frames(pictures, {0, 20, end}) == list(range(20, end)), "it began with a shot"


def test_no_key_frame_of_sound_footage_is_taken_for_the_end_of_damage():
    keys = set(range(0, 60, 5))
    lit, brighter = moving(3, 60), moving(4, 60)
    lit[25:28] = lit[25:28] * 1.6 + 60
    brighter[30:] = brighter[30:] * 1.4 + 20
    for pictures in (moving(1, 60, across=9, down=4), moving(2, 60, zoom=-0.01), lit, brighter, joined(moving(5, 40), moving(6, 30), 10)):
        assert damaged_frames(pictures, keys) == []
    assert damaged_frames(np.concatenate([moving(7, 30), moving(8, 30)]), keys) == []


def test_the_content_score_is_the_librarys():
    rng = np.random.default_rng(0)
    pictures = [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (48, 27)) for _ in range(6)]
    ours, theirs = ContentScore(1.3, 0, 2, 15), AdaptiveDetector(1.3, 0, 2, 15)
    for k, picture in enumerate(pictures):
        scores = [detector._calculate_frame_score(FrameTimecode(k, 25.0), picture) for detector in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1]), k
    assert scores[1] > 10


@pytest.mark.parametrize("size", [(31, 96), (16, 500), (20, 3000), (31, 4000), (12, 54), (96, 31), (2000, 18)])
def test_flow_of_wide_pictures_of_few_rows_crashes_no_process_and_is_found(size):
    """OpenCV's search ends the process on them: a small file ended a whole run."""
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 255, size, np.uint8), (0, 0), 2)
    field = flow_between(picture, np.roll(picture, 2, axis=1))
    assert field.shape == (*size, 2)
    if min(size) >= 16:
        assert np.median(field[..., 0]) == pytest.approx(2, abs=0.5)
        assert np.median(field[..., 1]) == pytest.approx(0, abs=0.5)
