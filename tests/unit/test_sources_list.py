"""Parquet lists of sources: every mistake is one line, nothing of the sources is read, and order or shards change nothing."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from footage_tools import context, curate_stages, recipe_for, shot

from mugv.curation.sources import Caption, SourceFile, assign_shards, digest_of, read_sources_table, write_sources
from mugv.curation.sources_read import known_here, read_sources, signed_sources
from mugv.dataset.clipset import ClipSet
from mugv.errors import UserError
from mugv.media.encode import write_video
from mugv.stages import scan


def write_list(path: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"url": ["a.mp4"], "bytes": [1]}, r"list.parquet: no column 'uri'; it has url, bytes, accepted: uri, name, licence"),
        ({"uri": pa.array([], pa.string())}, "list.parquet: no rows"),
        ({"uri": ["a.mp4", "b.mp4"], "name": ["x", "x"]}, r"list.parquet row 2: name 'x' is that of row 1 too; names must be unique$"),
        ({"uri": ["a.mp4", "b.mp4", "a.mp4"]}, "row 3: name 'a.mp4' is that of row 1 too; names must be unique, and it is the URI"),
        (
            {"uri": ["a.mp4", "ftp://host/b.mp4"]},
            "row 2: ftp://host/b.mp4: scheme 'ftp' is not supported; use a path, file://, s3://bucket/key or https://",
        ),
        ({"uri": ["https:///b.mp4"]}, "row 1: https:///b.mp4 names no host; expected https://host/path"),
        ({"uri": ["http://[::1/b.mp4"]}, r"row 1: http://\[::1/b.mp4 names no host"),
        ({"uri": ["a.mp4", None]}, "row 2: no uri"),
        ({"uri": ["s3://bucket"]}, "row 1: s3://bucket names no object; expected s3://bucket/key"),
        ({"uri": ["s3:///key"]}, "s3:///key: no bucket"),
        ({"uri": [1, 2]}, "column 'uri' must hold text, not int64"),
        ({"uri": ["a.mp4"], "bytes": ["1"]}, "column 'bytes' must hold whole numbers, not string"),
        ({"uri": ["a.mp4"], "caption": [["a"]]}, "column 'caption' must hold text, not list"),
    ],
)
def test_a_wrong_list_is_one_line_that_names_the_row(tmp_path, columns, message):
    path = write_list(tmp_path / "list.parquet", **columns)
    with pytest.raises(UserError, match=message) as error:
        read_sources(path)
    assert "\n" not in str(error.value)


def test_what_is_no_parquet_or_no_file_is_told_apart(tmp_path):
    (tmp_path / "text.parquet").write_text("uri\na.mp4\n")
    with pytest.raises(UserError, match=r"text\.parquet: not a parquet file"):
        read_sources(tmp_path / "text.parquet")
    with pytest.raises(UserError, match=r"gone\.parquet: no such file"):
        read_sources(tmp_path / "gone.parquet")


def test_columns_reach_the_source_and_a_captions_file_comes_first(tmp_path):
    path = write_list(
        tmp_path / "list.parquet",
        uri=["s3://b/k?odd#key.mp4", "s3://b/2.mp4"],
        name=["first", None],
        licence=["CC0", None],
        caption=["of the list", "of the list"],
        bytes=[7, None],
        etag=['"abc"', None],
        ignored=[1, 2],
    )
    (tmp_path / "c.jsonl").write_text('{"source": "first", "start": 0, "end": 2, "caption": "of the file", "licence": "MIT"}\n')
    first, second = read_sources(path, str(tmp_path / "c.jsonl"))
    assert (first.name, first.uri, first.etag, first.bytes, first.licence) == ("first", "s3://b/k?odd#key.mp4", "abc", 7, "MIT")
    assert first.captions == (Caption(0, 2, "of the file"), Caption(0, None, "of the list"))
    assert (second.name, second.captions) == ("s3://b/2.mp4", (Caption(0, None, "of the list"),))


def test_identity_follows_etag_and_size_or_the_file_or_the_uri(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a")

    def digests(**columns: list[object]) -> list[str]:
        return [s.digest for s in read_sources(write_list(tmp_path / "list.parquet", **columns))]

    s3 = {"uri": ["s3://b/1.mp4", "s3://b/2.mp4"], "bytes": [5, 5]}
    same, other = digests(**s3, etag=["e", "e"]), digests(**s3, etag=["e", "f"])
    assert same[0] == same[1] == other[0] != other[1]
    assert len(set(digests(**s3))) == 2
    before = digests(uri=["a.mp4"])
    assert digests(uri=["a.mp4"]) == before
    (tmp_path / "a.mp4").write_bytes(b"bb")
    changed = digests(uri=["a.mp4"])
    (tmp_path / "a.mp4").unlink()
    assert len({*before, *changed, *digests(uri=["a.mp4"])}) == 3


def test_the_order_of_the_list_changes_neither_digest_nor_shards(tmp_path):
    uris = [f"s3://b/{k}.mp4" for k in range(20)]
    sizes = [100 + 7 * k for k in range(20)]
    one = assign_shards(read_sources(write_list(tmp_path / "a.parquet", uri=uris, bytes=sizes)), 3)
    two = assign_shards(read_sources(write_list(tmp_path / "b.parquet", uri=uris[::-1], bytes=sizes[::-1])), 3)
    assert one == two
    assert digest_of(one) == digest_of(two)


def test_sources_of_unknown_size_are_shared_out_evenly(tmp_path):
    sources = assign_shards(read_sources(write_list(tmp_path / "a.parquet", uri=[f"s3://b/{k}.mp4" for k in range(30)])), 3)
    assert [sum(s.shard == k for s in sources) for k in range(3)] == [10, 10, 10]


def test_the_table_gives_back_what_was_scanned_and_repeats_byte_for_byte(tmp_path):
    columns = {
        "uri": ["s3://b/1.mp4", "s3://b/2.mp4"],
        "caption": ["x", None],
        "licence": [None, "CC0"],
        "etag": ["e", "e"],
        "bytes": [3, 3],
    }
    sources = assign_shards(read_sources(write_list(tmp_path / "list.parquet", **columns)), 2)
    assert sources[1].duplicate_of == "s3://b/1.mp4"
    for name in ("1", "2"):
        write_sources(tmp_path / name, sources)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert read_sources_table(tmp_path / "1") == sources
    assert read_sources_table(tmp_path / "1", 1) == [s for s in sources if s.shard == 1]


def test_a_hundred_thousand_uris_are_scanned_in_seconds_without_touching_them(tmp_path):
    count = 100_000
    uris = [f"s3://bucket/raw/{k % 1000:03d}/video-{k:06d}.mp4" for k in range(count)]
    path = write_list(tmp_path / "list.parquet", uri=uris, bytes=[10_000_000 + k for k in range(count)])
    began = time.process_time()
    sources = assign_shards(read_sources(path), 64)
    digest_of(sources)
    write_sources(tmp_path / "sources.parquet", sources)
    assert time.process_time() - began < 8
    assert len({s.shard for s in sources}) == 64
    loads = [sum(s.bytes for s in sources if s.shard == k) for k in range(64)]
    assert max(loads) < 1.001 * min(loads)


SIGNED = "https://user:SECRETPW@host/{}?v=1&X-Amz-Date={}&X-Amz-Signature={}"


def test_passwords_and_signatures_stay_in_the_list(tmp_path):
    uris = [SIGNED.format("a.mp4", 1, "SECRETSIG"), SIGNED.format("b.mp4", 1, "SECRETSIG"), "https://host/c.mp4?v=2"]
    path = write_list(tmp_path / "list.parquet", uri=uris, licence=["see " + uris[0], "", ""])
    (tmp_path / "c.jsonl").write_text(json.dumps({"source": uris[1], "caption": "of the file"}) + "\n")
    sources = read_sources(path, str(tmp_path / "c.jsonl"))
    assert [s.name for s in sources] == ["https://host/a.mp4?v=1", "https://host/b.mp4?v=1", "https://host/c.mp4?v=2"]
    assert [s.signed for s in sources] == [True, True, False]
    assert sources[1].captions[0].caption == "of the file"
    write_sources(tmp_path / "sources.parquet", sources)
    assert b"SECRET" not in (tmp_path / "sources.parquet").read_bytes()
    assert "SECRET" not in repr(read_sources_table(tmp_path / "sources.parquet"))
    assert signed_sources(path, sources) == {sources[0].uri: uris[0], sources[1].uri: uris[1]}
    assert signed_sources(tmp_path / "gone.parquet", sources[2:]) == {}


def test_a_list_that_is_signed_anew_holds_the_same_sources(tmp_path):
    def sources(*uris: str) -> list[SourceFile]:
        return read_sources(write_list(tmp_path / "list.parquet", uri=list(uris)))

    before = sources(*(SIGNED.format(name, 1, "x") for name in ("a", "b")))
    assert sources(*(SIGNED.format(name, 2, f"y{name}") for name in ("a", "b"))) == before
    tokens = sources("https://h/get?token=one", "https://h/get?token=two")
    assert len({s.digest for s in tokens}) == len({s.name for s in tokens}) == 2
    assert not any(s.duplicate_of for s in tokens)


def test_a_mistake_in_a_list_or_an_address_shows_no_secret(tmp_path):
    twice = write_list(tmp_path / "list.parquet", uri=["https://h/a", SIGNED.format("x", 1, "SECRETSIG")], name=["n", "n"])
    none = write_list(tmp_path / "none.parquet", uri=["https://user:SECRETPW@/a?token=SECRETSIG"])
    scheme = write_list(tmp_path / "scheme.parquet", uri=["ftp://user:SECRETPW@h/a?token=SECRETSIG"])
    for where in (twice, none, scheme, "s3://KEY:SECRETPW@bucket/x", "https://user:SECRETPW@h/list.parquet?sig=SECRETSIG"):
        with pytest.raises(UserError) as error:
            read_sources(where)
        assert not re.search("SECRET(PW|SIG)", str(error.value))


def test_only_what_this_machine_can_list_counts_as_known(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MUGV_S3_ACCESS_KEY", "MUGV_S3_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert [known_here(str(p)) for p in (tmp_path, tmp_path / "none", "s3://b/x")] == [True, False, False]
    monkeypatch.setenv("MUGV_S3_ACCESS_KEY", "a")
    monkeypatch.setenv("MUGV_S3_SECRET_KEY", "b")
    assert known_here("s3://b/x")


def test_a_list_of_local_files_is_curated_with_names_captions_and_licences(tmp_path):
    (tmp_path / "raw").mkdir()
    for k in range(2):
        write_video(tmp_path / f"raw/{k}.mp4", np.concatenate([shot(2 * k + 1), shot(2 * k + 2)]), 12)
    path = write_list(
        tmp_path / "list.parquet",
        uri=["raw/0.mp4", (tmp_path / "raw/1.mp4").as_uri(), "raw/2.mp4"],
        name=["zero", "one", "two"],
        caption=["a red circle", "a blue bar", "nothing"],
        licence=["CC0", "MIT", ""],
    )
    recipe = recipe_for(tmp_path / "stages", f"data.videos={path}")
    rows = ClipSet.open(curate_stages(tmp_path / "stages", recipe, {})).rows(status=None)
    kept = {(r.source, r.caption, r.licence) for r in rows if r.status == "kept"}
    assert kept == {("zero", "a red circle", "CC0"), ("one", "a blue bar", "MIT")}
    (gone,) = [r for r in rows if r.source == "two"]
    assert (gone.status, gone.reason) == ("rejected", "vanished")
    assert "not there" in gone.detail


def test_a_local_file_that_changed_after_the_scan_is_rejected_not_mixed_up(tmp_path):
    (tmp_path / "raw").mkdir()
    for k in range(2):
        write_video(tmp_path / f"raw/{k}.mp4", shot(k), 12)
    recipe = recipe_for(tmp_path / "stages", f"data.videos={tmp_path / 'raw'}", "data.shards=1", require_caption=False)
    scanned = context(tmp_path, "scan", recipe)
    scan.run(scanned)
    write_video(tmp_path / "raw/1.mp4", np.concatenate([shot(5), shot(6)]), 12)
    from mugv.curation.rows import read_rows
    from mugv.stages import curate_shard

    part = context(tmp_path, "curate_shard-0", recipe, {"scan": scanned.out})
    curate_shard.run(part)
    changed = [r for r in read_rows(part.out / "part.parquet") if r.source == "1.mp4"]
    assert [(r.reason, r.detail.startswith("changed since it was listed (")) for r in changed] == [("unreadable", True)]
