"""Clips cut without re-encoding: exactly the source's pictures, or not copied at all."""

import io
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from footage_tools import CURATION, curated, shot

from mugv.dataset.clipset import ClipSet
from mugv.media.decode import read_video

CLIP = {**CURATION["clip"], "copy_streams": True}
SHOT = {**CURATION["shot"], "trim_frames": 0}


def write(path: Path, frames: np.ndarray, fps: int = 12, gop: int = 17, bframes: int = 0) -> None:
    """Key frames every `gop` pictures and nowhere else."""
    options = {"crf": "20", "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:b-adapt=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def clips(tmp_path: Path, clip: dict[str, object] = CLIP, **how: int) -> tuple[Path, ClipSet]:
    """One shot of 40 pictures: windows begin at 0 and 17."""
    (tmp_path / "videos").mkdir()
    write(tmp_path / "videos/a.mp4", shot(3, 40), **how)
    curated(tmp_path, tmp_path / "videos", clip=clip, shot=SHOT)
    return tmp_path / "videos/a.mp4", ClipSet.open(tmp_path / "stages/curate/out")


def test_copied_clips_are_the_pictures_of_the_source_bit_for_bit(tmp_path):
    path, found = clips(tmp_path)
    frames, _ = read_video(path)
    rows = found.rows()
    assert [(r.start_frame, r.stored) for r in rows] == [(0, "copied"), (17, "copied")]
    for row in rows:
        assert np.array_equal(found.frames(row.clip_id), frames[row.start_frame : row.end_frame])


def test_a_copied_clip_stands_alone(tmp_path):
    _, found = clips(tmp_path)
    row = found.rows()[1]
    with tarfile.open(found.folder / row.shard) as tar:
        data = tar.extractfile(f"{row.clip_id}.mp4").read()
    with av.open(io.BytesIO(data)) as container:
        (stream,) = container.streams
        assert (stream.frames, float(stream.average_rate), stream.start_time) == (17, 12.0, 0)


@pytest.mark.parametrize(
    ("clip", "how", "stored"),
    [
        pytest.param({}, {"gop": 9}, ["copied", "encoded"], id="second window begins between key frames"),
        pytest.param({}, {"gop": 40, "bframes": 2}, ["encoded"] * 2, id="last pictures lean on one beyond the clip"),
        pytest.param({"fps": 11}, {}, ["encoded"] * 2, id="another frame rate"),
        pytest.param({"short_side": 64}, {}, ["encoded"] * 2, id="another size"),
        pytest.param({"copy_streams": False}, {}, ["encoded"] * 2, id="not asked for"),
    ],
)
def test_a_clip_that_cannot_be_copied_exactly_is_encoded_and_says_so(tmp_path, clip, how, stored):
    _, found = clips(tmp_path, {**CLIP, **clip}, **how)
    rows = found.rows()
    assert [row.stored for row in rows] == stored
    for row in rows:
        assert len(found.frames(row.clip_id)) == row.frames


def test_pictures_that_are_stored_out_of_order_are_copied_with_what_they_need(tmp_path):
    path, found = clips(tmp_path, gop=17, bframes=2)
    frames, _ = read_video(path)
    for row in found.rows():
        assert row.stored == "copied"
        assert np.array_equal(found.frames(row.clip_id), frames[row.start_frame : row.end_frame])
