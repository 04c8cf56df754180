"""A label that is read as its opposite trains the model towards what people refused; a wrong file must not cost a round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mugv.errors import UserError
from mugv.training.labels import Labels, read_labels

CANDIDATES = {"0000-0": "a red circle", "0000-1": "a red circle", "0001-0": "a blue bar", "0001-1": "a blue bar"}


def write(folder: Path, *lines: dict | str) -> Path:
    path = folder / "labels.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def absolute(clip: object, passed: object, **more: object) -> dict:
    return {"kind": "absolute", "clip": clip, "pass": passed, **more}


def pair(winner: object, loser: object, **more: object) -> dict:
    return {"kind": "pair", "winner": winner, "loser": loser, **more}


def test_what_people_fill_in_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        absolute("0000-0", True, labeller="ana", prompt="a red circle"),
        "",
        absolute("0000-1", False, note=None, prompt=None),
        pair("0001-1", "0001-0", labeller="ben"),
        "   ",
    )
    expected = Labels(("0000-0",), ("0000-1",), (("0001-1", "0001-0"),))
    assert read_labels(path, CANDIDATES) == expected
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_labels(path, CANDIDATES) == expected, "as a spreadsheet on Windows saves it"


def test_people_who_agree_count_once(tmp_path: Path) -> None:
    lines = [absolute("0000-0", True, labeller=who) for who in ("ana", "ben")] + [pair("0000-0", "0000-1")] * 2
    assert read_labels(write(tmp_path, *lines), CANDIDATES) == Labels(("0000-0",), (), (("0000-0", "0000-1"),))


@pytest.mark.parametrize("value", ["false", "no", "fail", "true", "", None, 0.3, 0, 1, [], {}])
def test_only_true_and_false_are_labels(value: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.jsonl line 2: pass must be true or false"):
        read_labels(write(tmp_path, absolute("0000-0", True), absolute("0000-1", value)), CANDIDATES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: invalid JSON \(.*expected a line such as"),
        ("[]", "line 2: no object"),
        ({"kind": "absolute", "clip": "0000-0"}, "line 2: expected"),
        ({"clip": "0000-0", "pass": True}, "line 2: expected"),
        ({"kind": ["pair"], "clip": "0000-0", "pass": True}, "line 2: expected"),
        (absolute(["0000-0"], True), r'line 2: clip must be the name of a clip, such as "0003-1", got \[\'0000-0\'\]'),
        (absolute(None, True), "line 2: clip must be the name of a clip"),
        (absolute(0, True), "line 2: clip must be the name of a clip"),
        (absolute({"a": 1}, True), "line 2: clip must be the name of a clip"),
        (pair("0000-0", ["0000-1"]), "line 2: loser must be the name of a clip"),
        (pair("nobody", "0000-1"), "line 2: clip 'nobody' is not among the 4 candidates"),
        (pair("0000-0", "0000-0"), "line 2: winner and loser are the same clip '0000-0'"),
        (pair("0000-0", "0001-1"), "line 2: winner '0000-0' and loser '0001-1' are of two prompts, 'a red circle' and 'a blue bar'"),
        (absolute("0000-0", False), "line 2: clip '0000-0' has pass false, but line 1 says true"),
        (absolute("0001-0", True, prompt="a red bar"), "line 2: clip '0001-0' is of the prompt 'a blue bar', the label of 'a red bar'"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(line: dict | str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, absolute("0000-0", True), line)
    with pytest.raises(UserError, match=message) as caught:
        read_labels(path, CANDIDATES)
    assert "\n" not in str(caught.value)


def test_two_pairs_that_contradict_each_other_are_named_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, pair("0000-0", "0000-1"), absolute("0001-0", True), pair("0000-1", "0000-0"))
    with pytest.raises(UserError, match="line 3: '0000-1' wins over '0000-0', but line 1 says the opposite"):
        read_labels(path, CANDIDATES)


def test_a_file_of_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, absolute("0000-0", True))
    path.write_bytes(path.read_bytes() + '{"kind": "absolute", "clip": "0000-1", "pass": true, "labeller": "José"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"labels\.jsonl line 2: not UTF-8 text"):
        read_labels(path, CANDIDATES)


def test_before_the_candidates_are_there_all_but_their_names_is_checked(tmp_path: Path) -> None:
    assert read_labels(write(tmp_path, absolute("9999-0", True))).passed == ("9999-0",)
    with pytest.raises(UserError, match="line 1: pass must be true or false"):
        read_labels(write(tmp_path, absolute("9999-0", "yes")))


def test_an_empty_file_holds_no_label(tmp_path: Path) -> None:
    assert read_labels(write(tmp_path), CANDIDATES) == Labels((), (), ())
