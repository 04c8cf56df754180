"""Files as cameras, editors, recorders and broadcasters write them: what their headers, time stamps and losses must not cost."""

from pathlib import Path

import numpy as np
import pytest
from footage_tools import curated, encode, scaled, shot
from foreign_files import edited, joined, packets_of, streams, ts, with_sound, without_packet

from mugv.media.decode import Frame, VideoReader, read_video
from mugv.media.decoder import ProcessReader
from mugv.media.picture import Want
from mugv.media.probe import UnreadableVideoError, probe

GOP = {"x264-params": "keyint=24:min-keyint=24:scenecut=0:bframes=2"}
LONG = scaled(np.concatenate([shot(k, 26) for k in range(3)]), 120, 160)


def frames_of(path: Path) -> tuple[list[Frame], str]:
    reader = VideoReader(path)
    return list(reader), reader.problem


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path):
    """A phone's trimmed video keeps the packets from the key frame on; the last window, often the only one, was `truncated`."""
    path = edited(encode(tmp_path / "a.mp4", LONG, options=GOP), tmp_path / "b.mp4", first=30)
    assert probe(path).frames == 78 - 24
    frames, problem = frames_of(path)
    assert (len(frames), problem) == (78 - 30, "")
    assert np.abs(frames[0].rgb().astype(int) - LONG[30]).mean() < 6


def test_empty_frames_of_an_avi_are_not_missing(tmp_path):
    """Screen and webcam recorders write an empty chunk where nothing changed."""
    path = encode(tmp_path / "a.avi", LONG[::2], codec="mpeg4", ticks=range(0, 78, 2))
    assert probe(path).frames == 77
    frames, problem = frames_of(path)
    assert (len(frames), problem) == (39, "")
    assert frames[-1].seconds == pytest.approx(76 / 12, abs=1e-3)


def test_sound_that_goes_on_after_the_pictures_does_not_make_them_cut_short(tmp_path):
    assert frames_of(with_sound(tmp_path / "a.mkv", LONG[:24], 9.0))[1] == ""
    assert frames_of(with_sound(tmp_path / "b.mkv", LONG, 3.0))[1] == ""


def test_windows_media_tells_the_length_of_the_file_not_of_its_pictures(tmp_path):
    path = with_sound(tmp_path / "a.wmv", LONG[:24], 9.0, codec="wmv2")
    frames, problem = frames_of(path)
    assert (len(frames), problem) == (24, "")


def test_avi_with_b_frames_knows_no_times_of_showing(tmp_path):
    """Half of the frames ran back in time and were dropped, the rest was `truncated`."""
    frames, problem = frames_of(encode(tmp_path / "a.avi", LONG, options={"x264-params": "bframes=3:b-adapt=0"}))
    assert (len(frames) >= 77, problem) == (True, "")
    assert np.diff([frame.seconds for frame in frames[2:]]) == pytest.approx(1 / 12, abs=1e-3)
    assert max(np.abs(a.rgb().astype(int) - b).mean() for a, b in zip(frames[::-1], LONG[::-1], strict=False)) < 6


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.flv", "a.mp4"])
def test_the_first_half_of_a_file_is_told_to_be_one(tmp_path, name):
    path = encode(tmp_path / name, LONG, codec="mpeg4" if name == "a.avi" else "libx264")
    assert frames_of(path)[1] == ""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames, problem = frames_of(path)
    assert 10 < len(frames) < 60
    assert problem


def test_the_default_stream_is_read_not_the_preview_before_it(tmp_path):
    """Action cameras write a small preview track first."""
    path = streams(tmp_path / "a.mkv", [(scaled(LONG, 60, 80), "mjpeg", False), (LONG, "libx264", True)])
    assert (probe(path).codec, probe(path).width) == ("h264", 160)
    assert (frames_of(path)[0][0].size, len(frames_of(path)[0])) == ((120, 160), 78)
    assert probe(streams(tmp_path / "b.mkv", [(LONG, "libx264", False), (scaled(LONG, 60, 80), "mjpeg", False)])).width == 160
    assert probe(streams(tmp_path / "c.mkv", [(LONG, "libx264", False), (scaled(LONG, 60, 80), "mjpeg", True)])).width == 80


def test_the_rate_of_raw_dv_is_that_of_its_pictures(tmp_path):
    """libav's mean is 60000, the rate of its time stamps."""
    path = encode(tmp_path / "a.dv", scaled(LONG[:5], 576, 720), codec="dvvideo", fps=25)
    assert probe(path).fps == 25
    assert [frame.seconds for frame in frames_of(path)[0]] == pytest.approx([k / 25 for k in range(5)], abs=1e-6)


def test_one_lost_packet_costs_the_frames_up_to_the_next_key_frame(tmp_path):
    """The rest of a broadcast was lost at the first gap; what is built on it, and nothing else, is damaged."""
    whole = ts(tmp_path / "a.ts", LONG, options=GOP)
    path = without_packet(whole, tmp_path / "b.ts", 1 / 6)
    (intact, _), (frames, problem) = frames_of(whole), frames_of(path)
    assert (len(frames) >= 77, problem) == (True, "")
    right = {frame.seconds: frame.rgb() for frame in intact}
    wrong = {frame.index for frame in frames if not np.array_equal(frame.rgb(), right[frame.seconds])}
    told = {frame.index for frame in frames if frame.corrupt}
    assert wrong <= told
    assert 1 <= len(told) <= 24


def test_a_packet_that_the_decoder_refuses_does_not_end_the_file(tmp_path):
    path = encode(tmp_path / "a.mkv", LONG, options=GOP)
    data, packet = bytearray(path.read_bytes()), packets_of(path)[30]
    at = data.index(packet)
    data[at : at + len(packet)] = bytes([255]) * len(packet)
    path.write_bytes(data)
    frames, problem = frames_of(path)
    assert problem == ""
    assert frames[-1].seconds == pytest.approx(77 / 12, abs=2e-3)
    assert {frame.index for frame in frames if frame.corrupt} <= set(range(24, 49))
    assert any(frame.corrupt for frame in frames)


@pytest.mark.parametrize("offset", [-2.0, 0.0, 1000.0])
def test_what_comes_after_a_join_is_read_whatever_its_time_stamps(tmp_path, offset):
    """Joined pieces begin anew; a step of 1000 s made the bits of a pixel nearly nothing and all clips `low_bit_rate`."""
    parts = [ts(tmp_path / "1.ts", LONG[:39], options=GOP), ts(tmp_path / "2.ts", LONG[39:], offset=3.25 + offset, options=GOP)]
    path = joined(parts, tmp_path / "a.ts")
    plain = probe(ts(tmp_path / "plain.ts", LONG, options=GOP))
    frames, problem = frames_of(path)
    assert (len(frames), problem, any(frame.corrupt for frame in frames)) == (78, "", False)
    assert [frame.seconds for frame in frames] == pytest.approx([k / 12 for k in range(78)], abs=0.02)
    assert [frame.piece for frame in frames] == ([0] * 78 if offset == 0 else [0] * 39 + [1] * 39)
    assert probe(path).bit_rate == pytest.approx(plain.bit_rate, rel=0.1)


def test_time_stamps_that_wrap_go_on(tmp_path):
    path = ts(tmp_path / "a.ts", LONG, offset=2**33 / 90000 - 4.0)
    frames, problem = frames_of(path)
    assert (len(frames), problem) == (78, "")
    assert [frame.seconds for frame in frames] == pytest.approx([k / 12 for k in range(78)], abs=0.02)


def test_a_change_of_size_is_a_boundary_and_both_parts_are_curated(tmp_path):
    """A phone that is turned, a broadcast that changes its aspect: OpenCV's error about two sizes ended the whole run."""
    shots = np.concatenate([shot(1, 26), shot(4, 26)])
    parts = [ts(tmp_path / "1.ts", scaled(shots[:26], 96, 128)), ts(tmp_path / "2.ts", shots[26:], offset=26 / 12)]
    (tmp_path / "videos").mkdir()
    joined(parts, tmp_path / "videos" / "a.ts")
    rows = curated(tmp_path, tmp_path / "videos")
    assert [(row.start_frame, row.width, row.height, row.status) for row in rows] == [(0, 128, 96, "kept"), (26, 96, 96, "kept")]


def test_pixels_that_become_wider_begin_a_shot(tmp_path):
    """A broadcast goes from 4:3 to 16:9: the pictures keep their size, their pixels do not; here the chroma changes, too."""
    narrow = ts(tmp_path / "1.ts", LONG[:39], options={"x264-params": "sar=1/1:bframes=2"})
    wide = ts(tmp_path / "2.ts", LONG[39:], offset=3.25, pixels="yuv422p", options={"x264-params": "sar=4/3:bframes=2"})
    path = joined([narrow, wide], tmp_path / "a.ts")
    for reader in (VideoReader(path), ProcessReader(path, [Want(120)])):
        assert [frame.size for frame in reader] == [(120, 160)] * 39 + [(120, 213)] * 39


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile good.mp4\n", "#EXTM3U\n#EXTINF:2,\ngood.mp4\n#EXT-X-ENDLIST\n"])
def test_a_script_named_as_a_video_shows_no_other_file(tmp_path, text):
    encode(tmp_path / "good.mp4", LONG[:12])
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(UnreadableVideoError, match="not a video file"):
        read_video(tmp_path / "list.mp4")
    with pytest.raises(UnreadableVideoError, match="not a video file"), (tmp_path / "list.mp4").open("rb") as file:
        read_video(file)


def test_a_name_is_never_an_address(tmp_path, monkeypatch):
    """`concat:`, `http:` and `%03d` are parts of names."""
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "http:b.mp4", "c%03d.mp4", "d\udce9.mp4"):
        encode(tmp_path / "whole.mp4", LONG[:6]).rename(name)
        assert len(read_video(Path(name))[0]) == 6


def test_tags_that_are_not_utf8_do_not_hide_the_pictures(tmp_path):
    path = encode(tmp_path / "a.mkv", LONG[:6], tags={"title": "Cafe12345"})
    path.write_bytes(path.read_bytes().replace(b"Cafe12345", b"Caf\xe912345"))
    assert len(read_video(path)[0]) == 6
