"""What lies in people's folders: names of any bytes, links, pipes, unreadable files and every kind of container."""

import json
import os
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from footage_tools import context, curated, recipe_for, run_stages, shot

from mugv.curation.sources_folder import named, passed_over
from mugv.curation.sources_list import read_list
from mugv.curation.sources_read import read_sources
from mugv.dataset.clipset import ClipSet
from mugv.errors import UserError
from mugv.media.encode import write_video
from mugv.stages import scan

OPEN = {"bits_per_pixel": {"minimum": None}, "sharpness": {"minimum": None}, "motion": {"minimum": None, "maximum": None, "short_side": 96}}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "good.mp4", np.concatenate([shot(1), shot(2)]), 12)
    return folder


def test_a_name_that_is_no_utf8_is_curated_captioned_and_shown_escaped(tmp_path, videos):
    odd = os.fsdecode(b"caf\xe9.mp4")
    (videos / os.fsdecode(b"d\xff")).mkdir()
    write_video(videos / odd, np.concatenate([shot(3), shot(4)]), 12)
    write_video(videos / os.fsdecode(b"d\xff/x.mp4"), np.concatenate([shot(5), shot(6)]), 12)
    write_video(videos / r"caf\xe9.mp4", np.concatenate([shot(7), shot(8)]), 12)
    lines = [{"source": odd, "caption": "as Python spells it"}, {"source": r"d\xff/x.mp4", "caption": "as it is shown"}]
    (videos / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = run_stages(tmp_path / "stages", recipe_for(tmp_path / "stages", f"data.videos={videos}", require_caption=False))
    rows = ClipSet.open(out).rows()
    captions = {row.source: row.caption for row in rows}
    # The name that can be stored is that of the file which has it.
    assert captions == {"good.mp4": "", r"caf\xe9.mp4": "as Python spells it", r"caf\xe9.mp4~": "", r"d\xff/x.mp4": "as it is shown"}
    assert Counter(row.source for row in rows) == dict.fromkeys(captions, 2)
    for name in ("report.html", "DATA_CARD.md", "card.json"):
        (out / name).read_text(encoding="utf-8")
    assert r"d\xff/x.mp4" in (out / "report.html").read_text()


def test_names_stay_unique_when_they_are_escaped():
    names = [os.fsdecode(b"a\xe9"), r"a\xe9", r"a\xe9~", "b"]
    stored = [name for name, _ in named(names)]
    assert sorted(stored) == sorted({*stored, r"a\xe9", r"a\xe9~", "b"})
    assert [uri for _, uri in named(names)] == ["file://./a%E9", "", "", ""]


def test_links_pipes_and_other_kinds_are_read_or_counted(tmp_path, videos, caplog):
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    for name in ("outside/o.webm", "outside/deep/p.mkv", "videos/camera.MTS", "videos/VTS_01_1.VOB", "videos/own/q.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for name in ("notes.txt", "song.mp3", "README", ".hidden.mp4"):
        (videos / name).write_bytes(b"x")
    for link, target in {
        "broken.mp4": "/nowhere.mp4",
        "circle.mp4": "circle.mp4",
        "0 own": "own",
        "linked": outside,
        "again": outside / "deep",
        "loop": ".",
        "up": "..",
        "file.mp4": "good.mp4",
        "zero.mp4": "/dev/zero",
    }.items():
        (videos / link).symlink_to(target)
    (outside / "deep/back").symlink_to(videos)
    os.mkfifo(videos / "pipe.mp4")
    names = [s.name for s in read_sources(videos)]
    assert names == ["VTS_01_1.VOB", "again/p.mkv", "camera.MTS", "file.mp4", "good.mp4", "linked/o.webm", "own/q.mp4"]
    (line,) = caplog.messages
    assert line.endswith("8 files passed over: .mp3 1, .txt 1, no extension 1, broken links 2, pipes and devices 2, linked folders 1")


def test_the_line_stays_short_and_its_counts_whole():
    others = [f"a.{k}{'x' * k}" for k in range(30) for _ in range(30 - k)]
    line = passed_over(others, Counter({"broken links": 2}))
    assert line.startswith("467 files passed over: .0 30, ")
    assert sum(int(part.rsplit(" ", 1)[1]) for part in line.split(": ")[1].split(", ")) == 467
    assert len(line) < 200
    assert passed_over([], Counter()) == ""


def test_a_folder_of_other_files_says_what_they_are(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"no video files; expected names ending in \.mp4 .*; 1 file passed over: \.txt 1"):
        read_sources(tmp_path)


def test_a_file_that_cannot_be_read_costs_that_file(tmp_path, videos):
    (videos / "badsector.mp4").symlink_to("/proc/self/mem")
    (videos / "worse.mp4").symlink_to("/proc/self/mem")
    rows = curated(tmp_path, videos)
    assert sorted((r.source, r.status, r.reason) for r in rows if r.source != "good.mp4") == [
        ("badsector.mp4", "rejected", "unreadable"),
        ("worse.mp4", "rejected", "unreadable"),
    ]
    assert sum(r.status == "kept" for r in rows) == 2


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', "[" * 100_000])
def test_a_damaged_memory_of_digests_is_made_anew(tmp_path, videos, text, monkeypatch):
    monkeypatch.setattr("mugv.digests.SETTLED_SECONDS", -1.0)
    (tmp_path / "digests.json").write_text(text)
    assert read_sources(videos, cache=tmp_path / "digests.json") == read_sources(videos)
    assert len(json.loads((tmp_path / "digests.json").read_text())) >= 1


def listed(tmp_path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    return tmp_path / "list.parquet"


def test_odd_rows_of_a_list_cost_their_source(tmp_path, videos):
    uris = [str(videos / "good.mp4"), "a\0b.mp4", "/dev/zero", str(videos), "file:///nowhere/%E9%00.mp4", "/dev/stdin"]
    (tmp_path / os.fsdecode(b"\xe9.mp4")).write_bytes((videos / "good.mp4").read_bytes() + b" ")
    uris.append(f"file://{tmp_path}/%E9.mp4")
    path = listed(tmp_path, uri=uris, bytes=pa.array([0, 2**64 - 1, 1, 0, 0, 0, 0], pa.uint64()))
    rows = curated(tmp_path, path)
    reasons = {r.source: r.reason for r in rows}
    assert {uri: reasons[uri] for uri in uris} == {
        uris[0]: "",
        uris[1]: "vanished",
        uris[2]: "unreadable",
        uris[3]: "unreadable",
        uris[4]: "vanished",
        uris[5]: "unreadable",
        uris[6]: "duplicate",
    }


def test_a_size_that_no_file_has_is_no_overflow(tmp_path):
    path = listed(tmp_path, uri=["http://127.0.0.1:1/a.mp4", "/a.mp4"], bytes=pa.array([2**64 - 1, 3], pa.uint64()))
    recipe = recipe_for(tmp_path, f"data.videos={path}", "data.shards=2", require_caption=False)
    assert scan.run(context(tmp_path, "scan", recipe))["sources"] == 2


def test_text_of_a_list_that_is_no_utf8_is_one_line(tmp_path):
    broken = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xe9"))
    with pytest.raises(UserError, match="text that is not UTF-8"):
        read_list(listed(tmp_path, uri=broken), "list", None)


CONTAINERS = {
    "a.MTS": ("mpegts", "libx264"),
    "b.VOB": ("vob", "mpeg2video"),
    "c.m2v": ("mpeg2video", "mpeg2video"),
    "d.gif": ("gif", "gif"),
    "e.f4v": ("mp4", "libx264"),
    "f.asf": ("asf", "mpeg4"),
    "g.qt": ("mov", "mpeg4"),
    "h.3g2": ("mp4", "mpeg4"),
    "i.mxf": ("mxf", "mpeg2video"),
    "j.y4m": ("yuv4mpegpipe", "wrapped_avframe"),
    "k.nut": ("nut", "ffv1"),
    "l.ivf": ("ivf", "libvpx-vp9"),
    "m.h264": ("h264", "libx264"),
    "n.mjpeg": ("mjpeg", "mjpeg"),
    "o.apng": ("apng", "apng"),
    "p.ogm": ("ogg", "libtheora"),
    "q.mod": ("vob", "mpeg2video"),
    "r.m2t": ("mpegts", "mpeg2video"),
    "s.divx": ("avi", "mpeg4"),
    "t.hevc": ("hevc", "libx265"),
}


def test_every_container_that_cameras_discs_and_tools_write_is_read(tmp_path, videos):
    made = set()
    for k, (name, (container, codec)) in enumerate(CONTAINERS.items()):
        try:
            written(videos / name, np.concatenate([shot(2 * k + 11, 40)]), container, codec)
        except (av.error.FFmpegError, ValueError):
            # This build of libav has no such encoder.
            (videos / name).unlink(missing_ok=True)
            continue
        made.add(name)
    assert len(made) >= 16
    rows = curated(tmp_path, videos, **OPEN)
    assert {r.source for r in rows if r.status == "kept"} == {*made, "good.mp4"}, {(r.source, r.reason, r.detail) for r in rows}


def written(path: Path, frames: np.ndarray, container: str, codec: str) -> None:
    pixels = {"gif": "rgb8", "mjpeg": "yuvj420p", "apng": "rgb24"}.get(codec, "yuv420p")
    rate = 25 if codec == "mpeg2video" else 12
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for picture in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=pixels)))
        file.mux(stream.encode(None))


def test_a_folder_whose_own_path_no_record_can_hold_is_refused_in_one_line(tmp_path, videos):
    odd = videos.rename(tmp_path / os.fsdecode(b"v\xe9"))
    with pytest.raises(UserError, match=r"v.xe9: a path that is not UTF-8; give it another name, or a link"):
        read_sources(odd)
    (tmp_path / "link").symlink_to(odd)
    assert [s.name for s in read_sources(tmp_path / "link")] == ["good.mp4"]
