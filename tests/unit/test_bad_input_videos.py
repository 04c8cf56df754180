"""Every kind of odd or broken video: it is used or rejected with a reason, and never stops a curation."""

import numpy as np
import pytest
from footage_tools import curated, encode, recipe_for, run_stages, scaled, shot, sound_only, truncated

from mugv.errors import UserError
from mugv.media.encode import write_video


@pytest.fixture
def videos(tmp_path):
    """A folder with one good video; each test adds its own."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "good.mp4", np.concatenate([shot(1), shot(2)]), 12)
    return folder


def rows_of(tmp_path, videos, name: str, **curation):
    rows = curated(tmp_path, videos, **curation)
    assert sum(r.source == "good.mp4" and r.status == "kept" for r in rows) == 2
    return [r for r in rows if r.source == name]


def broken(kind: str, path) -> None:
    if kind == "text":
        path.write_text("not a video\n" * 50)
    elif kind == "zero-length":
        path.write_bytes(b"")
    elif kind == "audio-only":
        sound_only(path)
    elif kind == "one-frame":
        write_video(path, shot(3, 1), 12)
    elif kind == "truncated, no index":
        truncated(path, shot(3), 0.6, index_first=False)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "unreadable"),
        ("zero-length", "unreadable"),
        ("audio-only", "no_video"),
        ("one-frame", "too_short"),
        ("truncated, no index", "unreadable"),
    ],
)
def test_a_broken_file_is_one_rejected_row_with_its_reason(tmp_path, videos, kind, reason):
    broken(kind, videos / "bad.mp4")
    (row,) = rows_of(tmp_path, videos, "bad.mp4")
    assert (row.status, row.reason) == ("rejected", reason)
    assert row.detail


def test_a_truncated_file_keeps_its_whole_shots_and_gives_up_the_unfinished_one(tmp_path, videos):
    truncated(videos / "bad.mp4", np.concatenate([shot(k) for k in range(3, 8)]), 0.7, index_first=True)
    rows = rows_of(tmp_path, videos, "bad.mp4")
    assert sum(r.status == "kept" for r in rows) >= 2
    assert (rows[-1].reason == "truncated" and "decode" in rows[-1].detail) or "packet" in rows[-1].detail
    assert all(r.end_frame <= rows[-1].start_frame for r in rows if r.status == "kept")


def test_853x481_gives_even_clips(tmp_path, videos):
    encode(videos / "odd.mkv", scaled(shot(3), 481, 853), codec="ffv1", pixels="yuv444p")
    (row,) = rows_of(tmp_path, videos, "odd.mkv")
    assert (row.status, row.height, row.width) == ("kept", 96, 170)


def test_variable_frame_rate_gives_clips_of_steady_motion(tmp_path, videos):
    gaps = np.tile([20, 60, 41], 30)[:51]
    times = [0, *np.cumsum(gaps).tolist()]
    encode(videos / "vfr.mkv", shot(3, 52), times=times, fps=24)
    rows = [r for r in rows_of(tmp_path, videos, "vfr.mkv") if r.status == "kept"]
    assert len(rows) == 1
    assert rows[0].frames == 17
    assert rows[0].end_seconds - rows[0].start_seconds == pytest.approx(17 / 12, abs=0.06)


def test_rotated_metadata_gives_upright_clips(tmp_path, videos):
    encode(videos / "turned.mp4", scaled(shot(3), 96, 128), rotation=-90)
    (row,) = rows_of(tmp_path, videos, "turned.mp4")
    assert (row.status, row.height, row.width) == ("kept", 128, 96)


def test_ten_bit_and_alpha_videos_are_used(tmp_path, videos):
    encode(videos / "ten.mp4", shot(3), codec="libx265", pixels="yuv420p10le")
    opaque = np.concatenate([shot(5), np.full((26, 96, 96, 1), 255, np.uint8)], axis=-1)
    encode(videos / "alpha.mov", opaque, codec="qtrle", pixels="argb")
    rows = curated(tmp_path, videos)
    assert {r.source for r in rows if r.status == "kept"} == {"good.mp4", "ten.mp4", "alpha.mov"}


def test_too_few_pictures_a_second_are_no_motion(tmp_path, videos):
    write_video(videos / "slow.mp4", shot(3, 26), 4)
    assert {r.reason for r in rows_of(tmp_path, videos, "slow.mp4")} == {"low_frame_rate"}


def test_clips_without_a_caption_are_rejected_when_the_recipe_wants_one(tmp_path, videos):
    (videos / "captions.jsonl").write_text('{"source": "good.mp4", "start": 0, "end": 2.2, "caption": "a"}\n')
    rows = curated(tmp_path, videos, require_caption=True)
    assert [(r.status, r.caption, r.caption_source) for r in rows if r.frames] == [("kept", "a", "sidecar"), ("rejected", "", "")]
    assert [r.reason for r in rows if r.status == "rejected"] == ["no_caption"]


def test_a_folder_without_a_readable_video_stops_with_a_count_per_reason(tmp_path):
    (tmp_path / "videos").mkdir()
    for kind, name in [("text", "a.mp4"), ("zero-length", "b.mp4"), ("audio-only", "c.mp4")]:
        broken(kind, tmp_path / "videos" / name)
    with pytest.raises(UserError, match="no clip was kept: no_video 1, unreadable 2"):
        curated(tmp_path, tmp_path / "videos")


def test_an_empty_folder_stops_before_anything_is_decoded(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match="no video files"):
        run_stages(tmp_path / "stages", recipe_for(tmp_path, f"data.videos={tmp_path / 'videos'}"))
