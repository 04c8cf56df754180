"""The decoder's process: the same frames as decoding here, memory that is used again, files and processes that end badly."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from footage_tools import encode, scaled, shot, sound_only, truncated

from mugv.media import decoder, start
from mugv.media.decode import VideoReader
from mugv.media.decoder import ProcessReader
from mugv.media.picture import Want
from mugv.media.probe import NoVideoStreamError, UnreadableVideoError
from mugv.media.slots import TOGETHER, Reader, Writer
from mugv.media.start import shared_file, start_decoder

FRAMES = scaled(shot(2, 26), 120, 182)
FORMATS = [
    {"codec": "libx264"},
    {"codec": "libx264", "pixels": "yuv422p"},
    {"codec": "libx265", "pixels": "yuv422p10le"},
    {"codec": "mpeg4"},
    {"codec": "mpeg2video", "fps": 25},
    {"codec": "mjpeg", "pixels": "yuvj420p"},
    {"codec": "libvpx-vp9"},
    {"codec": "libsvtav1"},
    {"codec": "libx264", "rotation": 90},
    {"codec": "libx264", "rotation": 180},
    {"codec": "libx264", "times": [40 * k + k * k for k in range(26)]},
    {"codec": "libx265", "pixels": "yuv420p10le"},
    {"codec": "ffv1", "pixels": "yuv444p"},
    {"codec": "ffv1", "pixels": "yuv422p12le"},
    {"codec": "qtrle", "pixels": "rgb24"},
]


@pytest.fixture(autouse=True)
def _own_process():
    """No test finds or leaves a process of another."""
    _end_all()
    yield
    _end_all()


def _end_all() -> None:
    decoder._close_all()
    start._end()


def only_process() -> decoder._Process:
    (process,) = decoder._idle
    return process


def waiting_pid() -> int:
    """Of a process that the next file will be read by."""
    start_decoder()
    (child,) = start._waiting
    return child.process.pid


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: "-".join(map(str, form.values()))[:30])
@pytest.mark.parametrize("short_side", [96, 20], ids=["whole", "halved"])
def test_frames_of_the_process_are_those_decoded_here(tmp_path, form, short_side):
    codec = form["codec"]
    path = encode(tmp_path / ("a.mov" if codec == "qtrle" else "a.mkv"), FRAMES, **form)
    plain, reader = VideoReader(path), ProcessReader(path, [Want(short_side)])
    for here, there in zip(plain, reader, strict=True):
        assert all(getattr(here, name) == getattr(there, name) for name in ("index", "seconds", "key", "corrupt", "size"))
        for box in (None, (10, 4, 60, 100)) if short_side == 96 else (None,):
            luma, bgr = (
                np.abs(getattr(here, form)(20, box).astype(int) - getattr(there, form)(20, box)).mean() for form in ("luma", "bgr")
            )
            # Halved chroma has fewer rows than the colours of the whole are made from, and RGB is halved by another filter.
            assert bgr <= (0 if short_side == 96 else 6)
            assert luma <= (6 if codec == "qtrle" and short_side == 20 else 0)
        if short_side == 96:
            assert np.array_equal(here.rgb(), there.rgb())
    assert (reader.info, reader.count, reader.seconds, reader.problem) == (plain.info, plain.count, plain.seconds, "")
    assert reader.busy_seconds > 0


def test_exact_colours_of_a_small_planar_picture_survive_the_copy(tmp_path):
    path = encode(tmp_path / "a.mp4", FRAMES)
    here, there = next(iter(VideoReader(path))), next(iter(ProcessReader(path, [Want(96)])))
    for side, box in ((60, None), (None, (9, 3, 70, 80)), (30, (9, 3, 70, 80))):
        assert np.array_equal(here.rgb(side, box), there.rgb(side, box))


def test_a_use_for_small_sources_alone_does_not_keep_a_large_one_whole(tmp_path):
    path = encode(tmp_path / "a.mp4", FRAMES)

    def rows(*wants: Want) -> int:
        return next(iter(ProcessReader(path, wants))).luma(120).shape[0] if wants else 0

    frame = next(iter(ProcessReader(path, [Want(30), Want(120, largest=100)])))
    assert frame.picture.luma(30, 44, None).shape == (30, 44)
    assert frame.picture.levels[0][0].shape == (30, 45)
    assert rows(Want(30), Want(120, largest=120)) == 120


def test_damage_is_told_of_the_same_frames(tmp_path):
    path = encode(tmp_path / "a.mp4", np.concatenate([scaled(shot(k), 120, 182) for k in range(4)]))
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data) // 3 + 60):
        data[at] ^= 0x5A
    path.write_bytes(data)
    plain, reader = VideoReader(path), ProcessReader(path, [Want(20)])
    assert [(f.index, f.corrupt) for f in plain] == [(f.index, f.corrupt) for f in reader]
    assert reader.problem == plain.problem


def test_a_file_cut_short_gives_its_good_frames_and_says_so(tmp_path):
    path = truncated(tmp_path / "a.mp4", np.concatenate([shot(k) for k in range(4)]), 0.6, index_first=True)
    plain, reader = VideoReader(path), ProcessReader(path, [Want(96)])
    assert [f.index for f in plain] == [f.index for f in reader]
    assert plain.problem == reader.problem != ""


def test_files_without_a_picture_are_refused_and_the_next_is_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"this is no video\n" * 20)
    with pytest.raises(UnreadableVideoError, match="not a video file"):
        list(ProcessReader(tmp_path / "a.mp4", [Want(96)]))
    with pytest.raises(NoVideoStreamError):
        list(ProcessReader(sound_only(tmp_path / "b.mp4"), [Want(96)]))
    process = only_process()
    assert sum(1 for _ in ProcessReader(encode(tmp_path / "c.mp4", FRAMES), [Want(96)])) == 26
    assert only_process() is process


def test_an_array_outlives_its_frame_unharmed(tmp_path):
    path = encode(tmp_path / "a.mp4", np.concatenate([FRAMES] * 6))
    kept = [
        (frame.index, frame.picture.planes.levels[0][0][3:9, 5:50]) for frame in ProcessReader(path, [Want(120)]) if frame.index % 9 == 0
    ]
    for _ in ProcessReader(path, [Want(120)]):
        pass
    again = {frame.index: frame.picture.planes.levels[0][0][3:9, 5:50].copy() for frame in ProcessReader(path, [Want(120)])}
    assert all(np.array_equal(again[index], pixels) for index, pixels in kept)


def test_memory_does_not_grow_with_the_file_nor_with_files_left_half_read(tmp_path):
    path = encode(tmp_path / "a.mp4", np.concatenate([FRAMES] * 20))
    assert sum(1 for _ in ProcessReader(path, [Want(120)])) == 520
    mapped = len(only_process().slots.maps)
    assert mapped * TOGETHER <= decoder.AHEAD + 4 * TOGETHER
    for _ in range(12):
        for frame in ProcessReader(path, [Want(120)]):
            if frame.index == 3:
                break
    gc.collect()
    assert sum(1 for _ in ProcessReader(path, [Want(120)])) == 520
    # How far the decoder is ahead depends on the machine's load; each of the 12 files would leave one map at least.
    assert len(only_process().slots.maps) <= mapped + 6


def test_two_files_read_in_turn_do_not_mix(tmp_path):
    paths = [encode(tmp_path / f"{k}.mp4", scaled(shot(k), 64 + 32 * k, 64)) for k in range(2)]
    plain = [[f.luma(32) for f in VideoReader(path)] for path in paths]
    turns = zip(*(ProcessReader(path, [Want(96)]) for path in paths), strict=True)
    for k, frames in enumerate(turns):
        for frame, expected in zip(frames, plain, strict=True):
            assert np.array_equal(frame.luma(32), expected[k])


def test_a_crash_costs_its_file_and_no_other(tmp_path):
    path = encode(tmp_path / "a.mp4", np.concatenate([FRAMES] * 20))
    reader = ProcessReader(path, [Want(120)])
    pid, frames = waiting_pid(), iter(reader)
    next(frames)
    os.kill(pid, signal.SIGSEGV)
    assert sum(1 for _ in frames) < 519
    assert reader.problem == "the decoder crashed (SIGSEGV)"
    os.kill(waiting_pid(), signal.SIGSEGV)
    with pytest.raises(UnreadableVideoError, match="crashed"):
        list(ProcessReader(path, [Want(120)]))
    assert sum(1 for _ in ProcessReader(path, [Want(120)])) == 520


def test_a_killed_decoder_is_no_fault_of_the_file(tmp_path):
    """Memory that ran out must not make a good source `unreadable` in the clip set."""
    path = encode(tmp_path / "a.mp4", FRAMES)
    os.kill(waiting_pid(), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="SIGKILL"):
        list(ProcessReader(path, [Want(120)]))


def test_the_process_ends_with_the_one_that_started_it():
    code = "import os; from mugv.media import start as s; s.start_decoder(); print(s._waiting[0].process.pid, flush=True); os._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    stat, until = Path(f"/proc/{int(done.stdout)}/stat"), time.monotonic() + 60
    while stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)


def test_starting_loads_no_library_first():
    """The decoder must load beside this process's own imports, not after them."""
    code = "import sys; import mugv.media.start; print(sorted({'numpy', 'av', 'cv2', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_larger_pictures_let_the_memory_of_the_old_ones_go():
    file = shared_file()
    writer, reader = Writer(file), Reader(file)
    small, large = np.arange(5000, dtype=np.uint8), np.arange(50000, dtype=np.uint16)
    slots = [writer.write([small]) for _ in range(TOGETHER + 1)]
    array = reader.read(slots[0])[:5000]
    first = writer.write([large, small])
    assert len(writer.maps) == 3
    writer.take_back(slots[1:])
    assert np.array_equal(array, small)
    del array
    gc.collect()
    writer.take_back(reader.take_freed())
    assert list(writer.maps) == [first.start]
    assert np.array_equal(reader.read(first)[:100000].view(np.uint16), large)
    assert os.fstat(file).st_blocks * 512 <= 2 * first.size
    os.close(file)
