"""What a shard leaves behind: rows, clips, a few strips of each kind, embeddings, and its speed."""

import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from footage_tools import context, recipe_for, shot

from mugv.curation import shard as module
from mugv.curation.meter import Meter
from mugv.curation.rows import ClipRow, read_rows
from mugv.curation.source import Item
from mugv.curation.sources import SourceFile
from mugv.media.encode import write_video
from mugv.recipe.curation import Curation
from mugv.stages import curate_shard, scan


def run(root: Path, videos: Path, **curation: object) -> tuple[dict[str, float], Path]:
    recipe = recipe_for(root, f"data.videos={videos}", "data.shards=1", **{"require_caption": False, **curation})
    scanned = context(root, "scan", recipe)
    scan.run(scanned)
    part = context(root, "curate_shard-0", recipe, {"scan": scanned.out})
    return curate_shard.run(part), part.out


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {name: tar.extractfile(name).read() for name in tar.getnames()}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A file with a still shot of ten windows and two good shots, and a copy of it."""
    folder = tmp_path / "videos"
    folder.mkdir()
    still = np.repeat(shot(9, 1), 175, axis=0)
    write_video(folder / "a.mp4", np.concatenate([still, shot(1), shot(2)]), 12)
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes())
    return folder


def test_a_long_source_leaves_a_few_strips_of_each_reason_that_can_be_looked_at(tmp_path, videos):
    _, out = run(tmp_path, videos)
    rows = {r.clip_id: r for r in read_rows(out / "part.parquet")}
    strips = members(out / "strips-0.tar")
    assert sum(r.reason == "static" for r in rows.values()) >= 8
    assert Counter(rows[name.removesuffix(".jpg")].reason for name in strips) == {"static": 3, "": 2}
    static = sorted(rows[name.removesuffix(".jpg")].start_frame for name in strips if rows[name.removesuffix(".jpg")].reason)
    assert static[0] < 10 < 130 < static[2], "spread over the shot"
    for data in strips.values():
        height, width = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
        assert (height, width // 6) == (96, 96)


def test_every_kept_row_has_its_clip_and_no_other(tmp_path, videos):
    _, out = run(tmp_path, videos)
    kept = {f"{r.clip_id}.mp4" for r in read_rows(out / "part.parquet") if r.status == "kept"}
    assert len(kept) == 2
    assert set(members(out / "clips-0.tar")) == kept
    assert not (out / "embeddings.parquet").exists()


def test_measuring_alone_stores_no_clip_but_strips(tmp_path, videos):
    _, out = run(tmp_path, videos, score_only=True)
    rows = read_rows(out / "part.parquet")
    assert {r.status for r in rows if r.frames} == {"scored"}
    assert {r.reason for r in rows if r.frames} == {"static", ""}
    assert not (out / "clips-0.tar").exists()
    assert len(members(out / "strips-0.tar")) >= 5


def test_speed_counts_what_was_decoded_and_says_how_near_decoding_alone_it_is(tmp_path, videos, capsys):
    metrics, _ = run(tmp_path, videos)
    assert (metrics["sources"], metrics["frames"], metrics["kept"]) == (2, 227, 2)
    assert metrics["frames_per_second"] == pytest.approx(12 * metrics["video_seconds_per_second"], rel=0.02)
    assert 0 < metrics["decode_share"] <= 1
    said = capsys.readouterr().out
    assert "curate_shard-0: 2 sources, 2 of " in said
    assert "% of decoding alone" in said


def test_embeddings_of_all_sources_come_in_the_order_of_their_rows(tmp_path, monkeypatch):
    """Two sources with two embedded clips and one without: the arithmetic of a CLIP model is tested elsewhere."""

    def items(source: SourceFile, path: Path, settings: Curation, meter: Meter):
        for k in range(3):
            row = ClipRow(f"{source.name}-{k}", source.name, source.digest, status="kept")
            yield Item(row, b"clip", embedding=None if k == 1 else np.full(4, k, np.float32))

    monkeypatch.setattr(module, "curate_source", items)
    sources = []
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
        sources.append(SourceFile(name, 64 * name, 1, ()))
    out = tmp_path / "out"
    out.mkdir()
    finished = module.curate_shard(sources, module.Access(tmp_path), Curation(), tmp_path / "work", lambda *_: None)
    assert module.write_part(finished, out, 0)["kept"] == 6
    table = pq.read_table(out / "embeddings.parquet")
    assert table["clip_id"].to_pylist() == ["a-0", "a-2", "b-0", "b-2"]
    assert table["embedding"].to_pylist()[1] == [2.0] * 4


def test_being_stopped_in_the_middle_of_a_source_leaves_nothing_of_it(tmp_path, monkeypatch):
    def items(source: SourceFile, path: Path, settings: Curation, meter: Meter):
        yield Item(ClipRow(f"{source.name}-0", source.name, source.digest, status="kept"), b"clip")
        if source.name == "b":
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "curate_source", items)
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    sources = [SourceFile(name, 64 * name, 1, ()) for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        module.curate_shard(sources, module.Access(tmp_path), Curation(), tmp_path / "work", lambda *_: None)
    monkeypatch.setattr(module, "curate_source", lambda *_: iter([Item(ClipRow("b-again", "b", "b"))]))
    finished = module.curate_shard(sources, module.Access(tmp_path), Curation(), tmp_path / "work", lambda *_: None)
    assert finished.before == 1
    assert [r.clip_id for home in finished.homes for r in read_rows(home / "rows.parquet")] == ["a-0", "b-again"]
