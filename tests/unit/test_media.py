"""Reading and writing video files: what must survive of pixels, sizes and times."""

import io
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from footage_tools import encode, scaled, shot, sound_only, truncated

from mugv.curation.windows import Clip
from mugv.media.decode import Frame, VideoReader, _judged, read_video, resample
from mugv.media.encode import write_video
from mugv.media.probe import NoVideoStreamError, UnreadableVideoError, probe
from mugv.media.resize import fit_short_side, halved, resize_crop


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_written_video_keeps_every_frame_and_its_colours(tmp_path):
    frames = shot(3)
    write_video(tmp_path / "a.mp4", frames, 12)
    back, fps = read_video(tmp_path / "a.mp4")
    assert back.shape == frames.shape
    assert fps == 12
    assert psnr(back, frames) > 32
    assert np.abs(back.mean((0, 1, 2)) - frames.mean((0, 1, 2))).max() < 1


def test_equal_frames_give_equal_bytes():
    def written() -> bytes:
        buffer = io.BytesIO()
        write_video(buffer, np.concatenate([shot(k) for k in range(4)]), 12, crf=14)
        return buffer.getvalue()

    first = written()
    assert all(written() == first for _ in range(5))


def test_an_odd_row_or_column_does_not_stop_the_encoder(tmp_path):
    write_video(tmp_path / "a.mp4", scaled(shot(), 95, 97), 12)
    assert read_video(tmp_path / "a.mp4")[0].shape[1:3] == (94, 96)


def test_no_frames_is_an_error_and_no_empty_file_passes_for_a_video(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", np.zeros((0, 8, 8, 3), np.uint8), 12)


def test_probe_tells_what_the_file_is(tmp_path):
    info = probe(encode(tmp_path / "a.mp4", scaled(shot(frames=24), 64, 128)))
    assert (info.codec, info.width, info.height, info.fps, info.frames, info.seconds) == ("h264", 128, 64, 12.0, 24, 2.0)
    assert probe(sound_only(tmp_path / "b.mp4")).has_video is False


def test_frames_are_upright_when_the_metadata_says_rotated(tmp_path):
    frames = scaled(shot(), 64, 128)
    path = encode(tmp_path / "a.mp4", frames, rotation=90)
    info, back = probe(path), read_video(path)[0]
    assert (info.width, info.height, info.rotation) == (64, 128, 90)
    assert psnr(back, np.rot90(frames, 1, axes=(1, 2))) > 30
    assert VideoReader(path, 32).__iter__().__next__().rgb().shape == (64, 32, 3)


def test_odd_size_is_read_whole_and_scaled_to_even_sides(tmp_path):
    path = encode(tmp_path / "a.mkv", scaled(shot(frames=3), 481, 853), codec="ffv1", pixels="yuv444p")
    assert read_video(path)[0].shape == (3, 481, 853, 3)
    assert read_video(path, short_side=96)[0].shape == (3, 96, 170, 3)


def test_ten_bit_video_has_the_colours_of_its_eight_bit_twin(tmp_path):
    frames = shot(1)
    path = encode(tmp_path / "a.mp4", frames, codec="libx265", pixels="yuv420p10le")
    back = read_video(path)[0]
    assert back.dtype == np.uint8
    assert psnr(back, frames) > 28


def test_what_is_transparent_becomes_black_not_hidden_garbage(tmp_path):
    frames = np.dstack([np.full((32, 32, 3), 200, np.uint8), np.zeros((32, 32, 1), np.uint8)])
    frames[:, 16:, 3] = 255
    path = encode(tmp_path / "a.mov", frames[None].repeat(3, 0), codec="qtrle", pixels="argb")
    back = read_video(path)[0]
    assert back[:, :, :16].max() == 0
    assert back[:, :, 16:].min() == 200


def test_variable_frame_rate_is_sampled_by_time_not_by_count(tmp_path):
    times = [0, 40, 80, 120, 500, 1000, 1040, 1080]
    frames = np.stack([np.full((32, 32, 3), 20 + 25 * k, np.uint8) for k in range(8)])
    ticks = list(resample(VideoReader(encode(tmp_path / "a.mkv", frames, times=times)), 10))
    assert [frame.index for frame in ticks] == [0, 2, 3, 3, 3, 4, 4, 4, 4, 4, 5, 7]


def test_resampling_at_the_own_rate_repeats_and_drops_nothing():
    frames = [Frame.from_rgb(k, round(k / 12, 3), np.zeros((2, 2, 3), np.uint8)) for k in range(40)]
    assert [f.index for f in resample(frames, 12)] == list(range(40))
    assert [f.index for f in resample(frames[5:], 6)] == list(range(5, 40, 2))


def test_a_file_cut_short_gives_its_good_frames_and_says_so(tmp_path):
    path = truncated(tmp_path / "a.mp4", np.concatenate([shot(k) for k in range(4)]), 0.6, index_first=True)
    reader = VideoReader(path)
    count = sum(1 for _ in reader)
    assert 20 < count < 104
    assert reader.problem
    with pytest.raises(UnreadableVideoError):
        read_video(path)


@pytest.mark.parametrize("data", [b"", b"this is no video\n" * 20])
def test_files_that_are_no_video_are_refused_by_name_of_error(tmp_path, data):
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(UnreadableVideoError, match="not a video file"):
        read_video(tmp_path / "a.mp4")


def test_sound_without_pictures_is_told_from_a_broken_file(tmp_path):
    with pytest.raises(NoVideoStreamError):
        read_video(sound_only(tmp_path / "a.mp4"))


def test_sizes_are_even_and_never_scaled_up():
    assert fit_short_side(481, 853, 96) == (96, 170)
    assert fit_short_side(95, 61, 96) == (94, 60)
    assert fit_short_side(1, 1, 96) == (2, 2)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(2160, 3840), (1083, 1923), (1201, 1501, 3)])
def test_a_large_picture_that_is_halved_in_bands_shows_no_seams(shape, kind):
    padded = np.random.default_rng(0).integers(0, 256, (shape[0], shape[1] + 61, *shape[2:]), kind)
    once = twice = padded[:, : shape[1]]
    for _ in range(2):
        rows, columns = twice.shape[0] // 2, twice.shape[1] // 2
        blocks = twice[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1).astype(int).sum((1, 3))
        twice = ((blocks + 2) >> 2).astype(kind).reshape(rows, columns, *shape[2:])
    assert np.array_equal(halved(once, 2), twice)


def test_resize_crop_keeps_the_centre_and_the_aspect():
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, 30:50] = 255
    out = resize_crop(frames, 20, 20)
    assert out.shape == (2, 20, 20, 3)
    assert out[:, :, 6:14].min() == 255
    assert out[:, :, :4].max() == 0
    assert resize_crop(frames, 96, 64).shape == (2, 96, 64, 3)


def test_of_an_odd_excess_half_is_rounded_as_in_the_released_pipeline():
    """Rounded down, a picture lay a pixel beside where the released code puts it."""
    columns = np.broadcast_to(np.arange(0, 99, 11, dtype=np.uint8)[:, None], (1, 4, 9, 3))
    assert resize_crop(columns, 4, 6)[0, 0, :, 0].tolist() == [22, 33, 44, 55, 66, 77], "an excess of 3: 1.5 is 2"
    assert resize_crop(columns, 4, 4)[0, 0, :, 0].tolist() == [22, 33, 44, 55], "an excess of 5: 2.5 is 2"
    assert resize_crop(np.swapaxes(columns, 1, 2), 6, 4)[0, :, 0, 0].tolist() == [22, 33, 44, 55, 66, 77]


def test_a_strip_is_cut_before_it_is_scaled_past_all_memory():
    """A column of 1 x 4,000,000 pixels to 720 x 1280 would first become 1280 x 5,120,000,000."""
    strip = np.zeros((1, 4_000_000, 1, 3), np.uint8)
    strip[:, 1_999_990:2_000_010] = 200
    assert (resize_crop(strip, 720, 1280) == 200).all()
    assert resize_crop(np.swapaxes(strip, 1, 2), 720, 1280).shape == (1, 720, 1280, 3)


def test_windows_that_share_frames_do_not_convert_them_again(tmp_path):
    frames = list(VideoReader(encode(tmp_path / "a.mp4", scaled(shot(), 540, 960))))
    first, second = (Clip(frames[start : start + 17], 12, probe(tmp_path / "a.mp4")) for start in (0, 4))
    assert second.rgb(0, 96) is first.rgb(4, 96)
    assert first.crop((0, 0, 480, 540)).rgb(4, 96).shape == (108, 96, 3)
    assert np.array_equal(first.rgb(4, 96), frames[4].picture.rgb(96, 170, None))


def test_large_pictures_do_not_pile_up_in_the_frames_of_a_window():
    frame = Frame.from_rgb(0, 0.0, np.zeros((720, 1280, 3), np.uint8))
    assert frame.bgr(54) is frame.bgr(54)
    assert frame.bgr(720) is not frame.bgr(720)


def test_a_4k_frame_is_never_held_as_rgb(tmp_path):
    """Peak memory of decoding 4K at a small size stays far below what full-size RGB frames would take."""
    path = tmp_path / "a.mp4"
    write_video(path, (np.full((2160, 3840, 3), 40 * k, np.uint8) for k in range(6)), 24, preset="ultrafast")
    code = (
        "import sys; from mugv.media.decode import VideoReader\n"
        "n = sum(f.rgb().shape == (96, 170, 3) for f in VideoReader(sys.argv[1], 96))\n"
        # Not ru_maxrss: a child inherits its parent's, and the test process may hold gigabytes.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "assert n == 6; print(int(peak.split()[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1500


def test_damage_ends_with_an_intra_picture_that_is_no_key_frame(tmp_path):
    """x264 writes one at a cut soon after a key frame; what comes after it is sound."""
    scenes = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    path = encode(tmp_path / "a.mp4", np.repeat(scenes, 9, axis=0))
    pictures = list(VideoReader(path).read(lambda picture: None))
    assert [(p.index, p.key) for p in pictures if p.intra] == [(0, True), (9, False)]
    pictures[4].damage = pictures[4].order
    assert {p.index for p in _judged(pictures) if p.corrupt} <= set(range(9))
    assert pictures[4].corrupt
    assert not pictures[12].corrupt


def test_a_recording_that_begins_at_a_late_timestamp_is_as_long_as_its_pictures(tmp_path):
    """Matroska's durations count from 0: a piece cut out of a long stream seemed to miss hours, and to have no bits."""
    path = tmp_path / "late.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=24, width=64, height=48, pix_fmt="yuv420p")
        for number in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 24 * 10_000 + number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert probe(path).seconds == pytest.approx(1.0, abs=0.05)
