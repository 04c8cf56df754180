"""Captions reach the manifest once, whole, and in the form that the text encoder was trained on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mugv.curation.captions import Captioned, apply_captions, read_captioned, write_captioned
from mugv.curation.captions.compose import compose, parse_parts, prompt, with_score
from mugv.curation.captions.record import CaptionLog
from mugv.curation.rows import ClipRow
from mugv.recipe.curation import Captioning, Curation

PARTS = {
    "subject": "A dog that runs",
    "appearance": "it is brown",
    "motion": "It runs to the left!",
    "camera": "N/A",
    "background": "A park, in the sun.",
}
ROW = ClipRow("a", "a.mp4", "d", status="kept", aesthetic=6.04)


def curation(**settings: Any) -> Curation:
    return Curation.model_validate(settings)


def test_parts_become_sentences_and_empty_parts_vanish() -> None:
    expected = "This video shows a dog that runs. It is brown. It runs to the left! A park, in the sun."
    assert compose(PARTS, Captioning()) == expected
    assert compose({**PARTS, "subject": "This video shows a dog."}, Captioning()).startswith("This video shows a dog. It is")
    assert compose({**PARTS, "subject": "Paris at night"}, Captioning()).startswith("This video shows Paris at night.")
    assert compose(dict.fromkeys(PARTS, "none"), Captioning()) == ""


def test_an_english_opening_is_not_put_before_another_language() -> None:
    assert compose({**PARTS, "subject": "Ein Hund rennt"}, Captioning(language="de")).startswith("Ein Hund rennt. ")


@pytest.mark.parametrize("text", [json.dumps(PARTS), f"```json\n{json.dumps(PARTS)}\n```", f"Here it is: {json.dumps(PARTS)} Done."])
def test_an_object_in_a_fence_or_between_words_is_read(text: str) -> None:
    assert parse_parts(text) == PARTS


@pytest.mark.parametrize("text", ["", "[]", "{", '{"subject": 1}', json.dumps({**PARTS, "motion": None})])
def test_anything_else_is_an_error_and_not_a_caption(text: str) -> None:
    with pytest.raises(ValueError):
        parse_parts(text)


def test_the_prompt_names_every_part_and_the_true_number_of_frames() -> None:
    text = prompt(Captioning(frames=8), 5)
    assert "5 frames" in text
    assert all(f"- {name}:" in text for name in PARTS)
    assert "JSON" not in prompt(Captioning(structured=False), 5)


def test_the_suffix_is_the_release_s_and_never_doubled() -> None:
    once = with_score("A dog.", 6.04)
    assert once == "A dog. aesthetic score: 6.0."
    assert with_score(once, 6.04) == once
    assert with_score("A dog.", None) == "A dog."


def test_a_caption_fills_the_row_with_parts_source_and_tags() -> None:
    found = Captioned("a", "A dog runs in a park.", PARTS, "vlm")
    row = apply_captions([ROW], {"a": found}, curation(caption={"score_suffix": True}))[0]
    assert row.caption == "A dog runs in a park. aesthetic score: 6.0."
    assert (row.caption_source, row.caption_subject, row.caption_background) == ("vlm", PARTS["subject"], PARTS["background"])
    assert {"subject:dog", "action:run", "scene:park"} <= set(row.tags)
    assert row.status == "kept"


def test_a_model_never_overwrites_a_sidecar_caption() -> None:
    sidecar = dataclasses.replace(ROW, caption="a cat sleeps", caption_source="sidecar")
    row = apply_captions([sidecar], {"a": Captioned("a", "A dog runs.", PARTS, "vlm")}, curation())[0]
    assert (row.caption, row.caption_source, row.caption_subject) == ("a cat sleeps", "sidecar", "")
    assert "subject:cat" in row.tags


def test_tags_of_the_model_replace_those_of_the_rules() -> None:
    found = Captioned("a", "A dog runs.", source="vlm", tags=("subject:terrier",))
    assert apply_captions([ROW], {"a": found}, curation())[0].tags == ("subject:terrier",)
    assert apply_captions([ROW], {"a": dataclasses.replace(found, tags=())}, curation())[0].tags == ()


def test_a_refused_or_missing_caption_rejects_kept_clips_only() -> None:
    settings = curation(caption={"kind": "transformers", "model": "m"})
    lost = dataclasses.replace(ROW, clip_id="b", status="rejected", reason="blurred", detail="x")
    rows = apply_captions([ROW, lost], {"a": Captioned("a", problem="refusal: I'm sorry")}, settings)
    assert [(r.status, r.reason, r.detail) for r in rows] == [
        ("rejected", "bad_caption", "refusal: I'm sorry"),
        ("rejected", "blurred", "x"),
    ]
    assert apply_captions([ROW], {}, settings)[0].reason == "no_caption"
    assert apply_captions([ROW], {}, curation(require_caption=False))[0].status == "kept"


def test_captions_survive_their_file(tmp_path: Path) -> None:
    written = [Captioned("b", "Ein Füllhorn ✓", PARTS, "vlm", 3, 4, "", ("subject:dog",)), Captioned("a", problem="empty")]
    write_captioned(tmp_path, written)
    assert list(read_captioned([tmp_path]).values()) == written
    assert len((tmp_path / "captions.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.parametrize("torn", [b'{"clip_id": "b", "capt', b'{"clip_id": "b"}', b"\xff\xfe", b"{]\n"])
def test_a_torn_last_line_costs_one_clip_and_not_the_log(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "work" / "captions.jsonl"
    log = CaptionLog(path)
    log.add(Captioned("a", "A dog."))
    log.add_lost(5, 6)
    log.close()
    path.write_bytes(path.read_bytes() + torn)
    again = CaptionLog(path)
    assert list(again.done) == ["a"]
    assert again.lost_tokens == [5, 6]
    again.add(Captioned("b", "A cat."))
    again.close()
    assert list(CaptionLog(path).done) == ["a", "b"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"caption": {"kind": "endpoint", "model": "m"}}, "kind endpoint needs url"),
        ({"caption": {"kind": "endpoint", "url": "http://a"}}, "kind endpoint needs model"),
        ({"caption": {"kind": "transformers"}}, "kind transformers needs model"),
        ({"caption": {"kind": "endpoint", "model": "m", "url": "vllm:8000"}}, "must begin with http"),
        ({"caption": {"minimum_words": 9, "maximum_words": 8}}, "minimum_words 9 must not exceed maximum_words 8"),
        ({"caption": {"language": "xx"}}, "'en'"),
        ({"tags": {"kind": "endpoint"}}, "tags.kind endpoint needs caption.url and caption.model"),
        ({"tags": {"kind": "endpoint"}, "caption": {"kind": "transformers", "model": "m"}}, "tags.kind endpoint needs"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Curation.model_validate(settings)
