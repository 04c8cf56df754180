"""Footage in a bucket, against a real S3 server on loopback: what is listed, fetched, lost on the way, and goes on after an outage."""

import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import KEYS, Server, Wire, served, without_pauses
from typer.testing import CliRunner

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "unit"))

from footage_tools import context, curate_stages, recipe_for, shot  # noqa: E402

from mugv.cli.main import app  # noqa: E402
from mugv.curation.fetch import Lost, fetched  # noqa: E402
from mugv.curation.rows import ClipRow, read_rows  # noqa: E402
from mugv.curation.sources import SourceFile, read_sources_table  # noqa: E402
from mugv.curation.sources_read import read_sources  # noqa: E402
from mugv.dataset.clipset import ClipSet  # noqa: E402
from mugv.errors import StoreError, UserError  # noqa: E402
from mugv.media.encode import write_video  # noqa: E402
from mugv.stages import curate_shard, scan  # noqa: E402

RAW = "s3://bucket/team/raw"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with served(tmp_path, monkeypatch) as server:
        yield server


def put(server: Server, key: str, data: bytes) -> str:
    server.client().put_object(bucket_name="bucket", object_name=key, data=io.BytesIO(data), length=len(data))
    return f"s3://bucket/{key}"


def remove(server: Server, key: str) -> None:
    server.client().remove_object(bucket_name="bucket", object_name=key)


def video(*numbers: int) -> bytes:
    buffer = io.BytesIO()
    write_video(buffer, np.concatenate([shot(k) for k in numbers]), 12)
    return buffer.getvalue()


@pytest.fixture
def footage(server: Server) -> list[str]:
    """Three videos under RAW, one of them deeper, with captions beside them and things that are no videos."""
    names = ["a.mp4", "b.mp4", "deep/c.mp4"]
    for k, name in enumerate(names):
        put(server, f"team/raw/{name}", video(2 * k + 1, 2 * k + 2))
    put(server, "team/raw/notes.txt", b"no video")
    put(server, "team/raw/.hidden/x.mp4", b"hidden")
    put(server, "team/rawer/other.mp4", b"beside the prefix")
    put(server, "team/raw/captions.jsonl", b'{"source": "a.mp4", "caption": "from the bucket", "licence": "CC0"}\n')
    return names


def stages(tmp_path: Path, where: str, *more: str) -> list[ClipRow]:
    recipe = recipe_for(tmp_path / "stages", f"data.videos={where}", "data.shards=1", *more, require_caption=False)
    return ClipSet.open(curate_stages(tmp_path / "stages", recipe, {})).rows(status=None)


def shard(tmp_path: Path, where: str) -> tuple[object, list[ClipRow]]:
    """Scan, then the context of the one shard, ready to run."""
    recipe = recipe_for(tmp_path, f"data.videos={where}", "data.shards=1", require_caption=False)
    scanned = context(tmp_path, "scan", recipe)
    scan.run(scanned)
    return context(tmp_path, "curate_shard-0", recipe, {"scan": scanned.out})


def test_a_prefix_gives_the_clips_that_the_same_folder_gives(server: Server, footage: list[str], tmp_path: Path) -> None:
    rows = stages(tmp_path / "s3", RAW)
    local = stages(tmp_path / "local", str(server.root / "bucket/team/raw"))
    facts = [(r.source, r.start_frame, r.status, r.reason, r.digest, r.caption, r.licence) for r in rows]
    assert facts == [(r.source, r.start_frame, r.status, r.reason, r.digest, r.caption, r.licence) for r in local]
    assert {r.source for r in rows if r.status == "kept"} == set(footage)
    assert {(r.caption, r.licence) for r in rows if r.source == "a.mp4"} == {("from the bucket", "CC0")}
    assert list((tmp_path / "s3/stages/curate_shard-0/work/fetch").iterdir()) == []


def test_what_identifies_a_prefix_changes_with_any_object(server: Server, footage: list[str]) -> None:
    before = {s.name: s.digest for s in read_sources(RAW)}
    assert {s.name: s.digest for s in read_sources(RAW + "/")} == before
    put(server, "team/raw/b.mp4", b"another")
    after = {s.name: s.digest for s in read_sources(RAW)}
    assert {name for name in before if before[name] != after[name]} == {"b.mp4"}


def test_equal_objects_are_one_source_and_a_duplicate(server: Server, footage: list[str]) -> None:
    put(server, "team/raw/z.mp4", video(1, 2))
    assert {s.name: s.duplicate_of for s in read_sources(RAW)}["z.mp4"] == "a.mp4"


def test_at_most_two_objects_lie_on_the_disk_and_none_at_the_end(server: Server, tmp_path: Path) -> None:
    sources = [SourceFile(str(k), "", 0, (), uri=put(server, f"x/{k}.mp4", os.urandom(1 << 20))) for k in range(6)]
    scratch, most = tmp_path / "fetch", 0
    for source, got in fetched(sources, None, scratch):
        assert isinstance(got, Path)
        assert got.read_bytes() == (server.root / f"bucket/x/{source.name}.mp4").read_bytes()
        time.sleep(0.1)
        most = max(most, len(list(scratch.iterdir())))
    assert most == 2
    assert list(scratch.iterdir()) == []


def broken_wire(server: Server, monkeypatch: pytest.MonkeyPatch, **how: object) -> Wire:
    wire = Wire(server.port, **how)
    wire.run()
    monkeypatch.setenv("MINIO_ENDPOINT", f"http://127.0.0.1:{wire.port}")
    return wire


def fetch_one(source: SourceFile, tmp_path: Path) -> bytes | Lost:
    for _, got in fetched([source], None, tmp_path / "fetch"):
        return got if isinstance(got, Lost) else got.read_bytes()
    raise AssertionError


def test_a_broken_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(3 << 20)
    uri = put(server, "x/a.mp4", data)
    wire = broken_wire(server, monkeypatch, path="a.mp4", after=2 << 20, times=1)
    assert fetch_one(SourceFile("a", "", 0, (), uri=uri), tmp_path) == data
    starts = [line for head in wire.requests for line in head.split("\r\n") if line.lower().startswith("range: ")]
    assert len(starts) == 1
    assert int(starts[0].split("=")[1].rstrip("-")) >= 1 << 20


def test_more_breaks_than_attempts_are_survived_while_bytes_come(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr("mugv.curation.download.CHUNK", 1 << 16)
    data = os.urandom(3 << 20)
    uri = put(server, "x/a.mp4", data)
    broken_wire(server, monkeypatch, path="a.mp4", after=1 << 18, times=9)
    assert fetch_one(SourceFile("a", "", 0, (), uri=uri), tmp_path) == data


@pytest.mark.parametrize(
    ("then", "reason", "detail"),
    [("vanishes", "vanished", "not there any more"), ("changes", "unreadable", "changed since it was listed (")],
)
def test_an_object_lost_in_the_middle_is_one_rejected_row_and_the_others_stay(
    server: Server, footage: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, reason: str, detail: str
) -> None:
    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.01)

    def happens() -> None:
        remove(server, "team/raw/b.mp4")
        if then == "changes":
            put(server, "team/raw/b.mp4", video(7, 8, 9))

    wire = broken_wire(server, monkeypatch, path="b.mp4", after=4096, then=happens, times=0)
    ctx = shard(tmp_path, RAW)
    wire.times = 1
    result = curate_shard.run(ctx)
    rows = read_rows(ctx.out / "part.parquet")
    assert wire.times == 0
    assert [(r.status, r.reason, detail in r.detail) for r in rows if r.source == "b.mp4"] == [("rejected", reason, True)]
    assert result["kept"] == sum(r.status == "kept" for r in rows if r.source != "b.mp4") == 4


def test_an_object_that_went_before_its_turn_is_vanished(server: Server, footage: list[str], tmp_path: Path) -> None:
    ctx = shard(tmp_path, RAW)
    remove(server, "team/raw/a.mp4")
    curate_shard.run(ctx)
    assert [r.reason for r in read_rows(ctx.out / "part.parquet") if r.source == "a.mp4"] == ["vanished"]


def test_a_server_that_stays_away_ends_the_run_and_the_next_one_goes_on(
    server: Server, footage: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.01)
    wire = broken_wire(server, monkeypatch, path="c.mp4", after=0, times=0)
    ctx = shard(tmp_path, RAW)
    wire.then, wire.times = server.stop, 1
    with pytest.raises(StoreError, match=r"^source s3://bucket/team/raw/deep/c\.mp4: get failed 6 times .*; run again when it is back$"):
        curate_shard.run(ctx)
    server.start()
    result = curate_shard.run(ctx)
    assert (result["sources"], result["sources_before"], result["kept"]) == (3, 2, 6)


def lists(server: Server, path: Path, *uris: str) -> Path:
    pq.write_table(pa.table({"uri": list(uris), "name": [f"n{k}" for k in range(len(uris))]}), path)
    return path


def test_a_list_may_lie_in_the_bucket_and_name_objects_and_captions(server: Server, footage: list[str], tmp_path: Path) -> None:
    path = lists(server, tmp_path / "list.parquet", f"{RAW}/a.mp4", f"{RAW}/deep/c.mp4", f"{RAW}/none.mp4")
    where = put(server, "lists/all.parquet", path.read_bytes())
    captions = put(server, "lists/said.jsonl", b'{"source": "n1", "caption": "said"}\n')
    rows = stages(tmp_path, where, f"data.captions={captions}")
    assert {(r.source, r.caption) for r in rows if r.status == "kept"} == {("n0", ""), ("n1", "said")}
    assert [r.reason for r in rows if r.source == "n2"] == ["vanished"]
    assert {s.uri for s in read_sources_table(tmp_path / "stages/scan/out/sources.parquet")} >= {f"{RAW}/a.mp4"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("s3://nothing/raw", "data.videos s3://nothing/raw: no such bucket 'nothing'; check the address and the endpoint"),
        ("s3://Bad_Bucket/raw", "data.videos s3://Bad_Bucket/raw: "),
        ("s3:///raw", "s3:///raw: no bucket; expected s3://bucket/prefix"),
        ("s3://bucket/empty", "data.videos s3://bucket/empty: no video objects; expected names ending in .mp4"),
        ("s3://bucket/none.parquet", "data.videos s3://bucket/none.parquet: no such object 'none.parquet' (or bucket 'bucket')"),
    ],
)
def test_a_wrong_address_is_one_line_and_exit_2(server: Server, tmp_path: Path, where: str, message: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--videos", where, "--state", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_list_with_a_wrong_bucket_ends_at_the_scan(server: Server, tmp_path: Path) -> None:
    path = lists(server, tmp_path / "list.parquet", "s3://nothing/a.mp4", "s3://bucket/gone.mp4")
    recipe = recipe_for(tmp_path, f"data.videos={path}", require_caption=False)
    with pytest.raises(UserError, match=r"^data\.videos s3://nothing: no such bucket; check the list and the endpoint$"):
        scan.run(context(tmp_path, "scan", recipe))


def test_wrong_and_missing_keys_are_told_at_once(
    server: Server, footage: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lists(server, tmp_path / "list.parquet", f"{RAW}/a.mp4")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    without_pauses(monkeypatch)
    with pytest.raises(StoreError, match=r"refused .*; check the bucket, the keys and the endpoint"):
        read_sources(RAW)
    with pytest.raises(StoreError, match=r"refused .*; check the bucket, the keys and the endpoint"):
        scan.run(context(tmp_path, "scan", recipe_for(tmp_path, f"data.videos={path}", require_caption=False)))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match=r"^data\.videos s3://bucket/team/raw: no keys; set MUGV_S3_ACCESS_KEY and MUGV_S3_SECRET_KEY"):
        read_sources(RAW)


def test_keys_for_a_time_go_out_with_their_token(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a token of AWS's never goes out with another server's keys."""
    uri = put(server, "x/a.mp4", b"bytes")
    wire = broken_wire(server, monkeypatch, path="a.mp4", times=0)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "for-a-time")
    assert fetch_one(SourceFile("a", "", 0, (), uri=uri), tmp_path) == b"bytes"
    assert "x-amz-security-token: for-a-time" in wire.requests[-1].lower()
    for name, key in zip(("ACCESS", "SECRET"), KEYS, strict=True):
        monkeypatch.setenv(f"MUGV_S3_{name}_KEY", key)
    assert fetch_one(SourceFile("a", "", 0, (), uri=uri), tmp_path) == b"bytes"
    assert "x-amz-security-token" not in wire.requests[-1].lower()
