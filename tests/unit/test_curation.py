"""Curation against the truth of the sample footage, and its rules one by one."""

import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from footage_tools import CURATION, context, curate_stages, recipe_for, run_stages, shot

from mugv.curation.hashing import distance, video_hash
from mugv.curation.merge import merge, with_scores, with_split
from mugv.curation.rows import ClipRow
from mugv.curation.scores import motion, sharpness
from mugv.curation.shots import tag_frames
from mugv.dataset.clipset import ClipSet
from mugv.errors import UserError
from mugv.media.decode import Frame
from mugv.recipe.curation import Curation, ShotSplit
from mugv.stages import curate_shard

FOOTAGE = ("data.sample.shots=100", "data.sample.shot_frames=[22,26]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(root, clip set, truth by file) of curated footage with 100 clean shots."""
    root = tmp_path_factory.mktemp("curation")
    folder = run_stages(root, recipe_for(root, *FOOTAGE))
    truth = json.loads((root / "footage/out/truth.json").read_text())["files"]
    return root, ClipSet.open(folder), truth


def outcomes(run):
    """(file kind, shot, rows that cover most of a clip of it) for every planted shot."""
    _, clips, truth = run
    rows = defaultdict(list)
    for row in clips.rows(status=None):
        rows[row.source].append(row)
    for name, file in truth.items():
        for planted in file["shots"]:
            yield (
                file["kind"],
                planted,
                [r for r in rows[name] if min(r.end_frame, planted["end"]) - max(r.start_frame, planted["start"]) > 8],
            )


def test_clean_shots_are_kept(run):
    clean = [any(r.status == "kept" for r in rows) for kind, s, rows in outcomes(run) if kind == "footage" and s["kind"] == "clean"]
    assert len(clean) == 100
    assert sum(clean) >= 97


def test_planted_defects_are_caught(run):
    bad = [
        all(r.status == "rejected" for r in rows)
        for kind, s, rows in outcomes(run)
        if kind in ("copy", "reencoded") or (kind == "footage" and s["kind"] != "clean")
    ]
    assert len(bad) >= 40
    assert sum(bad) >= 0.95 * len(bad)


@pytest.mark.parametrize(("kind", "reason"), [("frozen", "static"), ("fast", "too_fast"), ("duplicate", "duplicate"), ("blur", "blurred")])
def test_a_defect_is_rejected_for_its_own_reason(run, kind, reason):
    reasons = Counter(r.reason for where, s, rows in outcomes(run) if where == "footage" and s["kind"] == kind for r in rows)
    assert reasons[reason] >= 1
    assert "" not in reasons


def test_no_kept_clip_spans_a_transition_or_has_the_wrong_caption(run):
    checked = 0
    for _, planted, rows in outcomes(run):
        for row in rows:
            if row.status == "kept":
                checked += 1
                assert planted["start"] <= row.start_frame < row.end_frame <= planted["end"], (row.source, row.start_frame, planted)
                assert all(planted[word] in row.caption for word in ("colour", "shape", "direction"))
    assert checked > 90


def test_file_level_defects_have_one_row_with_a_reason(run):
    rows = {r.source: r for r in run[1].rows(status="rejected") if r.frames == 0 and r.end_frame == 0}
    assert rows["not_a_video.mp4"].reason == "unreadable"
    assert rows["shots_000_copy.mp4"].reason == "duplicate"
    assert "shots_000.mp4" in rows["shots_000_copy.mp4"].detail
    assert any(r.reason == "truncated" for r in run[1].rows(status="rejected") if r.source == "truncated.mp4")


def test_no_source_is_in_both_splits(run):
    train, validation = ({r.source for r in run[1].rows(split)} for split in ("train", "validation"))
    assert train
    assert validation
    assert not train & validation


def test_output_does_not_depend_on_the_number_of_shards_and_repeats_exactly(run, tmp_path):
    root, clips, _ = run
    folder = curate_stages(tmp_path, recipe_for(tmp_path, *FOOTAGE, "data.shards=3"), {"footage": root / "footage/out"})
    for path in sorted(p for p in clips.folder.rglob("*") if p.is_file()):
        assert path.read_bytes() == (folder / path.relative_to(clips.folder)).read_bytes(), path.name


def test_a_killed_shard_does_not_decode_finished_sources_again(run, tmp_path, monkeypatch):
    root, _, _ = run
    recipe = recipe_for(tmp_path, *FOOTAGE)
    ctx = context(tmp_path, "shard", recipe, {"scan": root / "scan/out", "footage": root / "footage/out"}, 1)
    seen: list[int] = []

    def dies(done: int, total: int, values: dict[str, float]) -> None:
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        curate_shard.run(replace(ctx, progress=dies))
    decoded: list[str] = []
    import mugv.curation.shard as module

    real = module.curate_source
    monkeypatch.setattr(module, "curate_source", lambda source, *rest: decoded.append(source.name) or real(source, *rest))
    result = curate_shard.run(replace(ctx, progress=lambda done, total, values: seen.append(done)))
    assert len(decoded) == result["sources"] - 2
    assert (ctx.out / "part.parquet").read_bytes() == (root / "curate_shard-1/out/part.parquet").read_bytes()


SPLIT = ShotSplit(**CURATION["shot"])


def kinds(frames: np.ndarray) -> str:
    """s shot, e edge, b blend, B black, one letter a frame."""
    letters = {"shot": "s", "edge": "e", "blend": "b", "black": "B"}
    return "".join(letters[t.kind] for t in tag_frames((Frame.from_rgb(k, k / 12, f) for k, f in enumerate(frames)), 12, SPLIT))


def test_a_hard_cut_falls_on_its_frame():
    tags = kinds(np.concatenate([shot(1), shot(2)]))
    assert tags == "s" * 24 + "eeee" + "s" * 24


def test_a_cross_fade_is_one_transition_not_a_cut():
    a, b = shot(1, 32), shot(2, 32)
    mix = np.linspace(0, 1, 10)[1:-1, None, None, None]
    fade = (a[24:] * (1 - mix) + b[:8] * mix).astype(np.uint8)
    tags = kinds(np.concatenate([a[:24], fade, b[8:]]))
    assert "s" not in tags[24:32]
    assert tags[:20] == "s" * 20
    assert tags[36:] == "s" * 20


def test_a_fade_to_black_takes_its_slopes_with_it():
    a, b = shot(1, 32), shot(2, 32)
    down = np.linspace(1, 0, 10)[1:-1, None, None, None]
    frames = np.concatenate([a[:24], a[24:] * down, np.zeros((3, 96, 96, 3)), b[:8] * down[::-1], b[8:]]).astype(np.uint8)
    tags = kinds(frames)
    assert "s" not in tags[24:43]
    assert "B" in tags[31:36]
    assert tags[47:] == "s" * 20


def test_fast_motion_inside_a_shot_is_no_cut():
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (96, 600, 3), np.uint8)
    frames = np.stack([texture[:, 12 * t : 12 * t + 96] for t in range(40)])
    assert "e" not in kinds(frames)


def test_sharpness_sees_edges_between_colours_of_one_brightness():
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:, :48, 0], picture[:, 48:, 1] = 255, 130
    assert sharpness(picture, 96) > 500
    assert sharpness(np.full((96, 96, 3), 128, np.uint8), 96) == 0


def test_motion_is_in_pixels_at_the_short_side_whatever_the_size():
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (40, 60, 3), np.uint8), np.ones((6, 6, 1), np.uint8))
    frames = [texture[:192, 4 * t : 4 * t + 192] for t in range(9)]
    small = [f[::2, ::2] for f in frames]
    assert motion(frames, 192, 1) == pytest.approx(4, rel=0.25)
    assert motion(small, 192, 1) == pytest.approx(4, rel=0.3)
    assert motion(frames[:1] * 9, 192, 1) == 0


def test_hash_survives_noise_and_a_shift_in_time_and_tells_clips_of_one_combination_apart():
    frames = shot(4, 26)
    noisy = np.clip(frames + np.random.default_rng(0).normal(0, 4, frames.shape), 0, 255).astype(np.uint8)
    code = video_hash(frames[2:19])
    assert distance(code, video_hash(noisy[2:19])) <= 5
    assert distance(code, video_hash(noisy[4:21])) <= 5
    others = [shot(4 + 60 * k, 26) for k in range(1, 8)]
    assert min(distance(code, video_hash(o[2:19])) for o in others) > 5


def row(number: int, source: str = "a.mp4", **values) -> ClipRow:
    base = {"source_digest": source, "status": "kept", "hash": video_hash(shot(number, 17)), "caption": "c", "frames": 17, "fps": 12.0}
    times = {"start_frame": number * 100, "start_seconds": number * 10.0, "end_seconds": number * 10 + 1.4}
    return ClipRow(f"{source}-{number}", source, **{**base, **times, **values})


def test_merge_keeps_the_first_of_two_copies_and_all_windows_of_one_shot():
    same = row(1).hash
    rows = [
        row(1),
        row(2, hash=same),
        row(3, hash=same, caption="other"),
        row(4),
        row(5, hash=row(4).hash, start_seconds=41.4, end_seconds=42.8),
    ]
    merged, _ = merge(rows, Curation(clip=CURATION["clip"]), 0)
    assert [r.reason for r in merged] == ["", "duplicate", "duplicate", "", ""]


def test_score_ranks_sharp_clips_of_usual_motion_first():
    rows = [row(k, sharpness=s, motion=m) for k, (s, m) in enumerate([(10, 1.0), (20, 1.1), (30, 9.0)])]
    assert [r.score for r in with_scores(rows)] == [0.25, 0.75, 0.5]


def test_split_by_source_is_by_share_and_never_empty():
    rows = [row(k, source=f"{k}.mp4") for k in range(10)]
    done, how = with_split(rows, 0.2, 0)
    assert how == "source"
    assert Counter(r.split for r in done) == {"validation": 2, "train": 8}
    assert [r.split for r in with_split(rows, 0.2, 1)[0]] != [r.split for r in done]
    assert Counter(r.split for r in with_split(rows[:2], 0.01, 0)[0]) == {"validation": 1, "train": 1}


def test_few_sources_are_split_by_clips_so_that_training_sees_each_of_them():
    rows = [row(k, source=f"{k // 5}.mp4") for k in range(10)]
    done, how = with_split(rows, 0.2, 0)
    assert how == "clip"
    assert {r.source for r in done if r.split == "train"} == {"0.mp4", "1.mp4"}
    assert [k for k, r in enumerate(done) if r.split == "validation"] == [4, 9]


def test_a_single_source_is_split_by_clips_and_says_so():
    done, how = with_split([row(k) for k in range(10)], 0.2, 0)
    assert how == "clip"
    assert [r.split for r in done] == ["train"] * 8 + ["validation"] * 2


def test_nothing_kept_ends_with_a_count_per_reason():
    rows = [row(k, status="rejected", reason=reason) for k, reason in enumerate(["static", "static", "blurred"])]
    with pytest.raises(UserError, match="no clip was kept: blurred 1, static 2"):
        merge(rows, Curation(), 0)
