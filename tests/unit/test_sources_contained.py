"""One source can never end a run or change another's result: whatever it raises costs that source, with its reason."""

import errno
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from footage_tools import curated, encode, scaled, shot

from mugv.curation import shard as module
from mugv.curation import source
from mugv.curation.rows import ClipRow
from mugv.errors import UserError
from mugv.media import decoder
from mugv.media.decoder import ProcessReader
from mugv.media.encode import write_video
from mugv.media.picture import Want
from mugv.media.probe import UnreadableVideoError


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "good.mp4", np.concatenate([shot(1), shot(2)]), 12)
    return folder


def rows_of(rows: list[ClipRow], name: str) -> list[ClipRow]:
    """Of a source; the good file beside it gave its two clips, and no two rows share an id."""
    assert {(r.start_frame, r.status) for r in rows if r.source == "good.mp4"} >= {(0, "kept"), (28, "kept")}
    assert max(Counter(r.clip_id for r in rows).values()) == 1
    return [r for r in rows if r.source == name]


def raising(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[str]:
    """Sources begun, of which `bad.mp4` gives one row and then raises, each time the next error."""
    real, begun, left = module.curate_source, [], list(errors)

    def items(source, *rest):
        begun.append(source.name)
        for item in real(source, *rest):
            yield item
            if source.name == "bad.mp4" and left:
                raise left.pop(0)

    monkeypatch.setattr(module, "curate_source", items)
    return begun


@pytest.mark.parametrize(
    "error", [ValueError("of\nnumpy"), MemoryError(), ZeroDivisionError(), AssertionError(), FileNotFoundError(2, "x")]
)
def test_any_error_out_of_a_source_is_one_row_and_nothing_else_of_it(tmp_path, videos, monkeypatch, error):
    encode(videos / "bad.mp4", np.concatenate([shot(3), shot(4)]))
    raising(monkeypatch, error)
    (row,) = rows_of(curated(tmp_path, videos), "bad.mp4")
    assert (row.status, row.reason) == ("rejected", "failed")
    assert row.detail.startswith(type(error).__name__)
    assert "\n" not in row.detail


@pytest.mark.parametrize("error", [UserError("no such model"), ImportError("rapidocr"), OSError(errno.ENOSPC, "full")])
def test_what_every_source_would_raise_ends_the_run(tmp_path, videos, monkeypatch, error):
    encode(videos / "bad.mp4", shot(3))
    raising(monkeypatch, error)
    with pytest.raises(type(error)):
        curated(tmp_path, videos)


def test_a_decoder_that_is_killed_is_tried_once_more(tmp_path, videos, monkeypatch):
    encode(videos / "bad.mp4", np.concatenate([shot(3), shot(4)]))
    killed = decoder.DecoderEndedError(signal.SIGKILL)
    begun = raising(monkeypatch, killed)
    assert {r.status for r in rows_of(curated(tmp_path / "1", videos), "bad.mp4")} == {"kept"}
    assert begun.count("bad.mp4") == 2
    raising(monkeypatch, killed, killed)
    (row,) = rows_of(curated(tmp_path / "2", videos), "bad.mp4")
    assert (row.reason, "memory" in row.detail) == ("failed", True)
    raising(monkeypatch, decoder.DecoderEndedError(signal.SIGTERM))
    with pytest.raises(decoder.DecoderEndedError):
        curated(tmp_path / "3", videos)


def test_an_error_in_the_decoders_process_is_told_and_the_next_file_read(tmp_path):
    path = encode(tmp_path / "a.mp4", shot(1))
    with pytest.raises(decoder.DecoderError, match="AttributeError"):
        list(ProcessReader(path, [None]))  # type: ignore[list-item]
    assert sum(1 for _ in ProcessReader(path, [Want(96)])) == 26


def test_a_decoder_that_hangs_costs_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder, "STALLED_SECONDS", 0.3)
    os.mkfifo(tmp_path / "never.mp4")
    with pytest.raises(UnreadableVideoError, match=r"no progress for 0\.3 s"):
        list(ProcessReader(tmp_path / "never.mp4", [Want(96)]))
    monkeypatch.setattr(decoder, "STALLED_SECONDS", 60)
    assert sum(1 for _ in ProcessReader(encode(tmp_path / "a.mp4", shot(1)), [Want(96)])) == 26


@pytest.mark.parametrize("seconds", [5, 15, 3600, 1e9])
@pytest.mark.parametrize("stride", [4, 17])
def test_a_pause_in_a_recording_is_one_row(tmp_path, videos, seconds, stride):
    times = [round(1000 * (k / 24 + (seconds if k >= 60 else 0))) for k in range(120)]
    encode(videos / "pause.mkv", np.concatenate([shot(3, 60), shot(3, 120)[60:]]), fps=24, times=times)
    clip = {"frames": 17, "fps": 12, "short_side": 96, "stride_frames": stride}
    rows = rows_of(curated(tmp_path, videos, clip=clip, bits_per_pixel={"minimum": None}), "pause.mkv")
    assert Counter(r.reason for r in rows)["low_frame_rate"] <= 1
    kept = [r for r in rows if r.status == "kept"]
    assert kept
    assert all(r.end_seconds - r.start_seconds < 1.6 for r in kept)
    assert len(rows) < 20


def test_pauses_that_follow_each_other_are_one_row(tmp_path, videos):
    encode(videos / "slides.mkv", scaled(shot(3, 40), 96, 96), times=[2000 * k for k in range(40)])
    encode(videos / "halting.mkv", scaled(shot(4, 40), 96, 96), times=[900 * k for k in range(40)])
    rows = curated(tmp_path, videos)
    for name in ("slides.mkv", "halting.mkv"):
        assert [r.reason for r in rows_of(rows, name)] == ["low_frame_rate"], name
        (row,) = rows_of(rows, name)
        assert (row.start_frame, row.end_seconds > 30) == (0, True)


def test_a_score_that_is_no_number_costs_its_source_and_no_ranks(tmp_path, videos, monkeypatch):
    encode(videos / "bad.mp4", np.concatenate([shot(3), shot(4)]))
    alone = curated(tmp_path / "alone", videos)
    real = source.measure

    def measure(clip, *rest):
        clip, box, values = real(clip, *rest)
        return clip, box, values | ({"motion": float("nan")} if clip.info.bytes == (videos / "bad.mp4").stat().st_size else {})

    monkeypatch.setattr(source, "measure", measure)
    (row,) = rows_of(curated(tmp_path / "both", videos), "bad.mp4")
    assert (row.reason, row.detail) == ("failed", "ValueError: a score is no number: motion nan")
    assert all(r.status == "kept" for r in alone)
