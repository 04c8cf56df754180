"""Whatever stands in captions.jsonl, a label file, labels.csv or a list of sources: it is read, or one line says what is wrong."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tools import damaged, few, outcome, values

from mugv.curation import calibrate
from mugv.curation.rows import ClipRow
from mugv.curation.sources_captions import read_captions
from mugv.curation.sources_list import read_list
from mugv.training.labels import read_labels

CAPTIONS = (
    '{"source": "a.mp4", "start": 0.0, "end": 2.5, "caption": "waves", "licence": "CC-BY"}\n'
    '{"source": "b.mp4", "caption": "a strasse\\u0301"}\n{"source": "b.mp4", "start": 3, "caption": "später"}\n'
).encode()
LABELS = (
    b'{"kind": "absolute", "clip": "0003-1", "prompt": "p", "pass": true, "labeller": "judge"}\n'
    b'{"kind": "pair", "winner": "0003-1", "loser": "0003-2", "prompt": "p", "labeller": "judge"}\n'
)
CSV = b'clip_id,label\na,keep\nb,"blurred|too_fast"\n'
CLIPS = {"0003-1": "p", "0003-2": "p", "0004-1": "q"}


def lines(example: bytes) -> st.SearchStrategy[bytes]:
    """Good lines with other values at their keys and other keys beside."""
    objects = [json.loads(line) for line in example.splitlines()]
    names = st.one_of(st.sampled_from(sorted({key for tree in objects for key in tree})), st.text(max_size=5))

    def text(changed: list[tuple[dict[str, Any], dict[str, Any]]]) -> bytes:
        return "\n".join(json.dumps({**good, **more}) for good, more in changed).encode()

    return st.lists(st.tuples(st.sampled_from(objects), st.dictionaries(names, values, max_size=2)), max_size=4).map(text)


def files(example: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(damaged(example), lines(example), st.binary(max_size=80))


@few(300)
@given(files(CAPTIONS))
def test_captions_of_anything(data: bytes) -> None:
    said = outcome(lambda: read_captions(data, "captions.jsonl", ["a.mp4", "b.mp4"], "videos"))
    for about in (said or {}).values():
        assert all(caption.caption.strip() and caption.start >= 0 for caption in about.captions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines")


@few(300)
@given(data=files(LABELS))
def test_labels_of_anything(folder: Path, data: bytes) -> None:
    path = folder / "labels.jsonl"
    path.write_bytes(data)
    found = outcome(lambda: read_labels(path, CLIPS))
    if found:
        assert set(found.passed) | set(found.failed) <= set(CLIPS)
        assert not set(found.passed) & set(found.failed)


@few(200)
@given(data=st.one_of(damaged(CSV), st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))))
def test_labels_for_calibration_of_anything(folder: Path, data: bytes) -> None:
    path = folder / "labels.csv"
    path.write_bytes(data)
    found = outcome(lambda: calibrate.read_labels(path, {name: ClipRow(name, f"{name}.mp4", "") for name in "ab"}))
    assert found is None or set(found) <= {"a", "b"}


cells = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "a.mp4", "/a.mp4", "file:///a", "file://%ff", "s3://b/k", "s3://", "http://h/x", "http://[", "http://u:p@h/x", "a\0b"]
    ),
)
columns = st.dictionaries(
    st.sampled_from(["uri", "name", "licence", "caption", "etag", "other"]), st.lists(cells, min_size=3, max_size=3), max_size=6
)


def parquet(table: dict[str, list[Any]], size: list[Any] | None) -> bytes:
    buffer = BytesIO()
    arrays = {name: pa.array(column, pa.string()) for name, column in table.items()}
    if size is not None:
        arrays["bytes"] = pa.array(size, pa.int64())
    pq.write_table(pa.table(arrays), buffer)
    return buffer.getvalue()


sizes = st.none() | st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3)


@few(150)
@given(data=st.builds(parquet, columns, sizes), base=st.sampled_from([None, Path("/nonexistent")]))
def test_a_list_of_any_rows(data: bytes, base: Path | None) -> None:
    for source in outcome(lambda: read_list(data, "list.parquet", base)) or ():
        assert source.name
        assert len(source.digest) == 64


@few(100)
@given(data=st.one_of(damaged(parquet({"uri": ["a", "b", "c"]}, [1, 2, 3])), st.binary(max_size=60)))
def test_a_damaged_list(data: bytes) -> None:
    outcome(lambda: read_list(data, "list.parquet", Path("/nonexistent")))
