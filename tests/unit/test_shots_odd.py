"""What broadcasts, streams, capture cards and intra-only codecs do to the shot detectors."""

from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from test_shots import HEIGHT, LETTERS, WIDTH, damaged_frames, moving, tags

from mugv.curation.shots import tag_frames
from mugv.curation.windows import Window, cut_windows
from mugv.media.decode import Frame
from mugv.media.probe import VideoInfo
from mugv.recipe.curation import ClipFormat, ShotSplit


def soft(seed: int, frames: int, speed: int = 2, sigmas: tuple[int, ...] = (1, 5)) -> np.ndarray:
    """A pan over a soft texture of one tint, float32 [T, HEIGHT, WIDTH, 3]: two of them are much alike."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT + 40, WIDTH + frames * speed + 40)), (0, 0), sigma) for sigma in sigmas]
    still = 128 + 60 * sum(layer / np.abs(layer).max() for layer in layers)
    tint = rng.uniform(0.5, 1, 3)
    return np.stack([still[10 : 10 + HEIGHT, 10 + t * speed :][:, :WIDTH, None] * tint for t in range(frames)]).astype(np.float32)


def under_a_frame(frames: np.ndarray, share: float) -> np.ndarray:
    """The middle of the pictures inside a still that covers `share` of each."""
    shown = np.repeat(moving(99, 1, across=0), len(frames), 0)
    inner = np.sqrt(1 - share)
    height, width = int(HEIGHT * inner), int(WIDTH * inner)
    middle = np.s_[:, (HEIGHT - height) // 2 : (HEIGHT + height) // 2, (WIDTH - width) // 2 : (WIDTH + width) // 2]
    shown[middle] = frames[middle]
    return shown


def starts(found: str) -> list[int]:
    """First frames of shots, by the two frames on either side that are left out."""
    return [k + 2 for k in range(len(found) - 3) if found[k : k + 4] == "eeee" and (k == 0 or found[k - 1] == "s")]


@pytest.mark.parametrize("share", [0.3, 0.4, 0.5, 0.6])
@pytest.mark.parametrize("scenes", [soft, moving])
def test_a_cut_under_graphics_that_stay_is_found(share, scenes):
    found = tags(under_a_frame(np.concatenate([scenes(21, 40), scenes(22, 40)]), share))
    assert starts(found) == [40]
    assert found.count("e") == 4


def test_a_cut_beside_a_picture_that_stays_is_found():
    frames = np.concatenate([moving(21, 40), moving(22, 40)])
    frames[:, :, : WIDTH // 2] = moving(99, 1)[0][:, : WIDTH // 2]
    assert starts(tags(frames)) == [40]


def test_a_part_of_the_picture_that_changes_at_once_is_no_cut():
    popped, over_a_pan = np.repeat(moving(1, 1), 80, 0), moving(1, 80)
    for frames in (popped, over_a_pan):
        frames[40:, 14:40, 20:70] = moving(2, 1)[0, :26, :50]
        assert set(tags(frames)) == {"s"}
    assert set(tags(under_a_frame(moving(3, 80, across=4), 0.4))) == {"s"}


def with_graphics(frames: np.ndarray) -> np.ndarray:
    """Corner boxes, a disc and a binary counter that flips several blocks at once."""
    for t, frame in enumerate(frames):
        cv2.circle(frame, ((67 + t) % WIDTH, HEIGHT // 2), HEIGHT // 8, (230, 200, 30), -1)
        side, block = HEIGHT // 5, HEIGHT // 12
        frame[:side, :side], frame[:side, -side:] = (220, 20, 20), (20, 200, 20)
        frame[-side:, :side], frame[-side:, -side:] = (20, 20, 220), (235, 235, 235)
        for bit in range(8):
            left = side + 4 + bit * (block + 2)
            frame[HEIGHT - block - 2 : HEIGHT - 2, left : left + block] = 235 if t >> bit & 1 else 16
    return frames


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0, 30])
def test_a_cut_between_scenes_that_share_graphics_is_a_boundary_and_no_damage(seed, noise):
    """The coder puts a key frame at the cut."""
    frames = with_graphics(np.concatenate([soft(seed, 40, sigmas=(3,)), soft(seed + 50, 40, sigmas=(3,))]))
    frames = frames + np.random.default_rng(seed).uniform(-noise, noise, frames.shape)
    assert starts(tags(frames)) == [40]
    assert damaged_frames(frames, {0, 40}) == []


def test_heavy_noise_alone_is_no_cut():
    frames = with_graphics(soft(5, 72, sigmas=(3,)))
    assert set(tags(frames + np.random.default_rng(0).uniform(-30, 30, frames.shape))) == {"s"}


FOREIGN = {
    "blue": np.array((0, 0, 254.0)),
    "green": np.array((0, 255.0, 0)),
    "grey": np.array((128.0, 128, 128)),
    "another scene": moving(7, 1)[0],
    "a brighter scene": moving(7, 1)[0] * 0.5 + 130,
    "a darker scene": moving(7, 1)[0] * 0.4,
    "noise": np.random.default_rng(1).uniform(0, 255, (HEIGHT, WIDTH, 3)),
    "a soft scene": soft(8, 1)[0],
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_foreign_pictures_in_a_shot_come_into_no_clip(kind, length):
    for scene in (moving(1, 72), with_graphics(soft(1, 72))):
        scene[20 : 20 + length] = FOREIGN[kind]
        clips = [w for w in windows(scene) if w.clip and not w.reason]
        assert clips
        assert not any(w.start_frame < 20 + length and w.end_frame > 20 for w in clips)


def windows(frames: np.ndarray) -> list[Window]:
    noise = np.random.default_rng(0).normal(0, 1, frames.shape)
    pictures = np.clip(frames + noise, 0, 255).astype(np.uint8)
    stream = (Frame.from_rgb(k, k / 24, picture) for k, picture in enumerate(pictures))
    info = VideoInfo("raw", WIDTH, HEIGHT, 24, len(frames), len(frames) / 24, 0)
    return list(cut_windows(tag_frames(stream, 24, ShotSplit()), info, ShotSplit(), ClipFormat(frames=17, fps=24, stride_frames=17)))


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("kind", ["lit", "blown out", "white", "flicker"])
def test_what_light_does_to_a_scene_is_nothing_foreign(kind, length):
    scene = moving(1, 60)
    lit = scene[30 : 30 + length]
    scene[30 : 30 + length] = {"lit": lit * 0.4 + 150, "blown out": lit * 1.5 + 120, "white": 254, "flicker": lit * 0.7}[kind]
    assert set(tags(scene)) == {"s"}


def test_bars_that_grow_over_the_picture_are_no_transition():
    scene = moving(1, 72)
    for t, frame in enumerate(scene):
        bar = t // 2
        frame[:bar], frame[HEIGHT - bar :] = 0, 0
    assert set(tags(scene)) == {"s"}


def test_a_black_file_is_said_to_be_black():
    (found,) = windows(np.zeros((40, HEIGHT, WIDTH, 3)))
    assert (found.reason, found.detail) == ("black", "40 black frames")


def kinds(pictures: Iterable[np.ndarray], keys: set[int]) -> tuple[str, list[int]]:
    frames = [Frame.from_rgb(k, k / 24, picture.astype(np.uint8)) for k, picture in enumerate(pictures)]
    for k in keys:
        frames[k].key = True
    tagged = list(tag_frames(frames, 24, ShotSplit()))
    return "".join(LETTERS[t.kind] for t in tagged), [t.frame.index for t in tagged if t.frame.corrupt]


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (240, 320), (8, 2000)])
def test_intra_only_footage_is_not_damaged_where_a_counter_flips(size):
    """Every picture is a key frame: nothing that is wrong in one can heal in the next."""
    counted = np.clip(with_graphics(soft(3, 72)), 0, 255)
    pictures = [cv2.resize(frame, size[::-1]) for frame in counted]
    assert kinds(pictures, set(range(72))) == ("s" * 72, [])
