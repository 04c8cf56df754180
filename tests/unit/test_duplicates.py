"""Duplicates: found through encoders, sizes, brightness and shifts in time; different clips, calm shots and shard orders left alone."""

from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
import pytest
from footage_tools import shot

from mugv.curation.duplicates import reject_duplicates
from mugv.curation.hashing import codes, distance, small_pictures, video_hash
from mugv.curation.neighbours import near_codes, near_vectors
from mugv.curation.rows import ClipRow
from mugv.media.decode import read_video
from mugv.media.encode import write_video
from mugv.recipe.curation import Curation

SETTINGS = Curation(clip={"frames": 17, "fps": 12, "stride_frames": 17})
LIMIT = SETTINGS.duplicates.distance


def scene(seed: int, frames: int = 25, size: int = 144) -> np.ndarray:
    """A pan over a soft random texture with a moving disc, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.integers(20, 235, (7, 14, 3), np.uint8), (3 * size, 2 * size), interpolation=cv2.INTER_CUBIC)
    step, start, colour = rng.uniform(-2, 2, 2), rng.uniform(40, 80, 2), tuple(int(c) for c in rng.integers(0, 255, 3))
    pictures = []
    for t in range(frames):
        x, y = (start + t * step).astype(int)
        picture = wide[y : y + size, x : x + size + 48].copy()
        cv2.circle(picture, (30 + 4 * t, size // 2), 18, colour, -1)
        pictures.append(picture)
    return np.stack(pictures)


def stored(frames: np.ndarray) -> np.ndarray:
    """Encoded and decoded again."""
    buffer = BytesIO()
    write_video(buffer, np.ascontiguousarray(frames), 12)
    return read_video(BytesIO(buffer.getvalue()))[0]


def rescaled(frames: np.ndarray, factor: float) -> np.ndarray:
    size = [round(side * factor / 2) * 2 for side in frames.shape[2:0:-1]]
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


COPIES = {
    "encoded again": stored,
    "half the size": lambda frames: stored(rescaled(frames, 0.5)),
    "larger": lambda frames: rescaled(frames, 1.5),
    "brighter": lambda frames: np.clip(frames.astype(int) + 8, 0, 255).astype(np.uint8),
    "less contrast": lambda frames: (frames * 0.95).astype(np.uint8),
    "a pixel of border": lambda frames: frames[:, 1:-1, 1:-1],
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_nearer_than_the_limit_and_another_clip_is_not(change):
    for seed in range(6):
        frames = scene(seed)
        assert distance(video_hash(frames[:17]), video_hash(COPIES[change](frames[:17]))) < LIMIT
        assert distance(video_hash(frames[:17]), video_hash(COPIES[change](scene(seed + 50)[:17]))) > 1.5 * LIMIT


@pytest.mark.parametrize("shift", [1, 3, 6])
def test_a_copy_that_begins_later_is_found(shift):
    for seed in range(6):
        first, later = scene(seed)[:17], stored(scene(seed)[shift : shift + 17])
        assert distance(video_hash(first), video_hash(later)) < LIMIT


def test_a_clip_that_differs_only_in_where_a_small_thing_moves_is_no_copy():
    frames = scene(3, 17)
    other = frames.copy()
    still = scene(3, 17)
    for t in range(17):
        other[t] = still[t]
        cv2.circle(other[t], (30 + 4 * t, 30), 18, (250, 250, 250), -1)
    assert distance(video_hash(frames), video_hash(other)) > LIMIT


def test_distance_is_the_same_both_ways_and_text_that_is_no_hash_is_refused():
    a, b = video_hash(scene(0)), video_hash(scene(1, 9))
    assert distance(a, b) == distance(b, a)
    assert distance(a, a) == pytest.approx(0, abs=1e-4)
    for wrong in ("", "AAAA", "no base64!"):
        with pytest.raises(ValueError):
            small_pictures(wrong)


def row(name: str, frames: np.ndarray, source: str = "", second: float = 0.0, **values) -> ClipRow:
    base = {"source_digest": source, "status": "kept", "hash": video_hash(frames), "frames": 17, "fps": 12.0}
    times = {"start_frame": int(second * 12), "start_seconds": second, "end_seconds": second + 17 / 12}
    return ClipRow(name, source or f"{name}.mp4", **{**base, **times, **values})


def outcome(rows, settings=SETTINGS, **more):
    return {r.clip_id: r.detail.removeprefix("looks like ") for r in reject_duplicates(rows, settings, **more) if r.reason == "duplicate"}


def test_copies_go_whatever_their_captions_and_the_first_stays():
    one, two = scene(1)[:17], scene(2)[:17]
    rows = [row("a", one, caption="x"), row("b", two), row("c", stored(one), caption="y"), row("d", stored(rescaled(two, 0.5)))]
    assert outcome(rows) == {"c": "a", "d": "b"}


def test_copies_stay_where_pictures_are_not_compared():
    rows = [row("a", scene(1)[:17]), row("b", scene(1)[:17])]
    off = SETTINGS.model_copy(update={"duplicates": SETTINGS.duplicates.model_copy(update={"distance": None})})
    assert outcome(rows) == {"b": "a"}
    assert outcome(rows, off) == {}


def test_windows_of_one_calm_shot_stay_and_a_second_showing_of_it_goes():
    calm = [np.repeat(scene(5)[:1], 17, axis=0)] * 4
    rows = [row(f"w{k}", frames, "long.mp4", k * 17 / 12) for k, frames in enumerate(calm)]
    assert outcome([*rows, row("again", calm[0], "long.mp4", 60.0)]) == {"again": "w0"}


def test_a_rejected_clip_is_no_original_and_is_not_judged_again():
    frames = scene(1)[:17]
    rows = [row("a", frames, status="rejected", reason="blurred"), row("b", frames), row("c", frames)]
    assert outcome(rows) == {"c": "b"}


def test_scored_clips_are_marked_and_stay_scored():
    frames = scene(1)[:17]
    rows = reject_duplicates([row("a", frames, status="scored"), row("b", frames, status="scored")], SETTINGS)
    assert [(r.status, r.reason) for r in rows] == [("scored", ""), ("scored", "duplicate")]


def test_clips_of_earlier_sets_do_not_come_again():
    earlier = {"first": [row("old", scene(1)[:17]), row("gone", scene(2)[:17], status="rejected")]}
    rows = [row("a", stored(scene(1)[:17])), row("b", stored(scene(2)[:17]))]
    assert outcome(rows, earlier=earlier) == {"a": "old of first"}


def test_more_copies_than_the_search_names_all_lead_to_one_original():
    frames = scene(7)[:17]
    rows = [row(f"{k:03d}", frames, f"{k:03d}.mp4") for k in range(130)]
    assert outcome(rows) == {f"{k:03d}": "000" for k in range(1, 130)}


def test_near_embeddings_are_duplicates_only_where_the_recipe_says_so():
    rng = np.random.default_rng(0)
    vector = rng.normal(size=64)
    embeddings = {"a": vector, "b": vector + 0.1 * rng.normal(size=64), "c": rng.normal(size=64)}
    embeddings = {name: (v / np.linalg.norm(v)).astype(np.float32) for name, v in embeddings.items()}
    rows = [row(name, scene(k)[:17]) for k, name in enumerate("abc")]
    assert outcome(rows, embeddings=embeddings) == {}
    wanted = SETTINGS.model_copy(update={"duplicates": SETTINGS.duplicates.model_copy(update={"similarity": 0.95})})
    assert outcome(rows, wanted, embeddings=embeddings) == {"b": "a"}


def test_clips_of_several_lengths_are_compared():
    frames = scene(2, 33)
    rows = [row("a", frames[:9]), row("b", stored(frames[:9])), row("longer", frames), row("other", scene(3, 33))]
    assert outcome(rows) == {"b": "a", "longer": "a"}


def test_cells_find_what_the_exact_search_finds(monkeypatch):
    from mugv.curation import neighbours

    rng = np.random.default_rng(0)
    clips = np.concatenate([codes(small_pictures(video_hash(shot(k, 17)))[None])[0, :1] for k in range(60)])
    many = np.repeat(clips, 50, axis=0)
    many ^= np.packbits(rng.random((len(many), 256)) < 0.01, axis=1)
    owner = np.arange(len(many))
    exact = near_codes(many, owner, owner, 4)
    monkeypatch.setattr(neighbours, "FLAT", 100)
    found = near_codes(many, owner, owner, 4)
    both = set(map(tuple, exact)) & set(map(tuple, found))
    assert len(both) >= 0.95 * len(exact) > 100


def test_near_vectors_are_pairs_of_different_rows_once():
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0, 2]]
    assert near_vectors(vectors, 0.9).tolist() == [[0, 2]]


def test_the_order_of_equal_work_changes_nothing():
    rows = [row(f"{k}", stored(scene(k % 5)[:17]), f"{k}.mp4") for k in range(15)]
    once = reject_duplicates(rows, SETTINGS)
    assert once == reject_duplicates([replace(r) for r in rows], SETTINGS)
    assert sum(r.reason == "duplicate" for r in once) == 10
