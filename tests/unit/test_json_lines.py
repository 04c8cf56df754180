"""What people's tools and editors write into files of JSON lines is read, or refused in one line that names file, line and fault."""

import codecs
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mugv.errors import UserError
from mugv.json_lines import parse_json_lines, read_json_lines

EXAMPLE = '{"clip": "a"}'


def read(data: bytes, names: tuple[str, ...] = ()) -> list[tuple[int, dict]]:
    return list(parse_json_lines(data, EXAMPLE, "some.jsonl", names))


def test_line_ends_of_unicode_part_no_lines_and_shift_no_numbers():
    text = "one\u2028two\u2029three\u0085four\x0c"
    line = json.dumps({"caption": text.replace("\x0c", "")}, ensure_ascii=False)
    assert read(f"{line}\n\n{line}\n".encode()) == [(1, json.loads(line)), (3, json.loads(line))]


def test_what_windows_editors_write_is_read():
    assert read(codecs.BOM_UTF8 + b'{"a": 1}\r\n \r\n\t{"b": 2}') == [(1, {"a": 1}), (3, {"b": 2})]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"a": ' + b"9" * 400 + b"}", "too large a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too large a number"),
        (b'{"a": -1e999}', "too large a number"),
        (b'{"a": NaN}', "NaN is no number"),
        (b"[" * 100_000, "nested deeper than"),
        (b'{"a":' * 100_000, "nested deeper than"),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "nested deeper than"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' twice"),
        (rb'{"a": "\ud83d"}', r"'\ud83d' is half of a surrogate pair"),
        (b"\xff\xfe{\x00", "not UTF-8"),
        (b"{'a': 1}", "invalid JSON"),
        (b"[1]", "no object but [1]"),
        (b"null", "no object but None"),
    ],
)
def test_a_fault_is_one_line_with_file_and_line(line: bytes, fault: str):
    with pytest.raises(UserError) as error:
        read(b'{"a": 1}\n' + line + b"\n")
    assert str(error.value).startswith("some.jsonl line 2: ")
    assert fault in str(error.value)
    assert len(str(error.value)) < 250


def test_a_name_that_is_no_utf8_comes_as_python_spells_it():
    assert read(rb'{"source": "caf\udce9.mp4"}', ("source",)) == [(1, {"source": "caf\udce9.mp4"})]


def test_what_is_no_file_is_refused_and_not_read_for_ever(tmp_path: Path):
    for path, fault in ((Path("/dev/zero"), "not a regular file"), (tmp_path, "not a regular"), (tmp_path / "no", "No such file")):
        with pytest.raises(UserError, match=fault):
            list(read_json_lines(path, EXAMPLE))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0dDeE1.-nNaI \n\r', max_size=40).map(str.encode))
def test_any_bytes_give_objects_or_one_error(data: bytes):
    try:
        found, fault = read(data), ""
    except UserError as error:
        found, fault = [], str(error)
    assert all(isinstance(tree, dict) for _, tree in found)
    assert not fault or fault.startswith("some.jsonl line ")
