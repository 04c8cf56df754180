"""The published ClipSet: what a reader relies on."""

import numpy as np
import pytest
from footage_tools import curated, shot

from mugv.curation.rows import ClipRow, read_rows, write_rows
from mugv.dataset.clipset import ClipSet
from mugv.errors import UserError
from mugv.media.encode import write_video


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clipset")
    (root / "videos").mkdir()
    for k in range(3):
        write_video(root / f"videos/{k}.mp4", np.concatenate([shot(2 * k + 1), shot(2 * k + 2)]), 12)
    curated(root, root / "videos")
    return ClipSet.open(root / "stages/curate/out")


def test_frames_come_back_as_many_and_as_bright_as_they_went_in(clips):
    for row in clips.rows():
        frames = clips.frames(row.clip_id)
        assert frames.shape == (row.frames, row.height, row.width, 3) == (17, 96, 96, 3)
    first = clips.rows()[0]
    original = shot(1)[first.start_frame : first.end_frame]
    assert np.abs(clips.frames(first.clip_id).astype(int) - original).mean() < 3


def test_rows_select_by_split_and_status_and_counts_add_up(clips):
    assert len(clips.rows()) == len(clips.rows("train")) + len(clips.rows("validation")) == 6
    assert {r.status for r in clips.rows(status=None)} >= {"kept"}
    assert clips.counts()["train"] == len(clips.rows("train"))


def test_a_damaged_shard_is_noticed_before_its_pixels_are_used(clips, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(clips.folder, folder)
    shard = folder / clips.rows()[0].shard
    data = bytearray(shard.read_bytes())
    data[2000] ^= 255
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match="damaged"):
        ClipSet.open(folder).frames(clips.rows()[0].clip_id)


def test_a_folder_that_is_no_clip_set_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.parquet is missing"):
        ClipSet.open(tmp_path)


def test_rejected_clips_have_no_pixels_but_keep_their_row(tmp_path):
    rows = [ClipRow("a", "a.mp4", "d", reason="static", detail="motion 0 < 1")]
    write_rows(tmp_path / "manifest.parquet", rows)
    (tmp_path / "card.json").write_text('{"shards": {}}')
    clips = ClipSet.open(tmp_path)
    assert clips.rows() == []
    assert clips.rows(status="rejected") == rows == read_rows(tmp_path / "manifest.parquet")
    with pytest.raises(KeyError, match="static"):
        clips.frames("a")
