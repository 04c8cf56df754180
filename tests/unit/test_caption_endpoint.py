"""A captioning server that is slow, down, overloaded or talks nonsense must cost patience, never a clip and never a second payment."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from caption_tools import PARTS, WORDS, completion, good, raw, says, serving, status, write_part

from mugv.curation.captions import Captioned, pace, read_captioned
from mugv.curation.captions.part import caption_part
from mugv.errors import UserError
from mugv.recipe.curation import Curation

REFUSAL = "I'm sorry, but I can't help with that."


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_WAIT_SECONDS", 0.01)


def curation(url: str, tags: str = "rules", **caption: Any) -> Curation:
    settings = {"kind": "endpoint", "url": url, "model": "vlm", "concurrency": 2, "attempts": 4, **caption}
    return Curation.model_validate({"caption": settings, "tags": {"kind": tags}})


def captioned(folder: Path, settings: Curation, part: Path | None = None, **rows: Any) -> tuple[dict[str, Captioned], dict[str, float]]:
    """What the stage writes, and its metrics; the part is made at the first call."""
    part = part or folder / "part"
    if not part.exists():
        write_part(part, **rows)
    (folder / "out").mkdir(parents=True, exist_ok=True)
    metrics = caption_part(part, folder / "out", folder / "work", settings, lambda done, total, values: None)
    return read_captioned([folder / "out"]), metrics


def darkest(request: dict[str, Any]) -> bool:
    """Whether a request is about the darkest clip."""
    jpeg = base64.b64decode(request["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2])
    return bool(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).mean() < 30)


def test_every_kept_clip_gets_a_composed_caption_its_parts_and_its_cost(tmp_path: Path) -> None:
    with serving() as server:
        found, metrics = captioned(tmp_path, curation(server.url, price_input=2.0, price_output=10.0))
    assert list(found) == ["clip-0", "clip-1", "clip-2"]
    assert {f.caption for f in found.values()} == {WORDS}
    assert found["clip-0"].parts == PARTS
    assert found["clip-0"].source == "vlm"
    assert (found["clip-0"].tokens_input, found["clip-0"].tokens_output) == (100, 20)
    assert metrics["captioned"] == 3
    assert metrics["cost"] == pytest.approx((300 * 2.0 + 60 * 10.0) / 1e6)
    assert metrics["captions_a_second"] > 0
    assert metrics["tokens_a_second"] == pytest.approx(20 * metrics["captions_a_second"])


def test_the_model_sees_the_clip_s_own_frames_in_order_and_the_schema(tmp_path: Path) -> None:
    with serving() as server:
        captioned(tmp_path, curation(server.url, frames=3, short_side=24, concurrency=1), count=1)
        request = server.requests[0]
    content = request["messages"][0]["content"]
    shown = [base64.b64decode(c["image_url"]["url"].partition(",")[2]) for c in content if c["type"] == "image_url"]
    images = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for jpeg in shown]
    assert [image.shape for image in images] == [(24, 32, 3)] * 3
    assert [round(float(image.mean()) / 10) for image in images] == [2, 4, 6], "first, middle and last frame"
    assert request["response_format"]["json_schema"]["schema"]["required"] == list(PARTS)
    assert request["temperature"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(status(500), id="500"),
        pytest.param(status(503), id="503"),
        pytest.param(status(429), id="429"),
        pytest.param(status(408), id="408"),
        pytest.param(lambda _: None, id="dropped"),
        pytest.param(raw(b'{"choices": [{"mess'), id="half a body"),
        pytest.param(raw(b"<html>gateway</html>", "text/html"), id="html"),
        pytest.param(raw(b"{}"), id="no choices"),
        pytest.param(says('{"subject": "a dog", "appea'), id="half an answer"),
        pytest.param(says('{"subject": "a dog"}'), id="keys missing"),
        pytest.param(says("A dog runs over a field."), id="no JSON"),
    ],
)
def test_a_passing_fault_is_tried_again_and_leaves_no_trace(tmp_path: Path, bad: Any) -> None:
    with serving([bad, bad]) as server:
        found, metrics = captioned(tmp_path, curation(server.url))
        assert len(server.requests) == 5
    assert [f.caption for f in found.values()] == [WORDS] * 3
    assert metrics["refused"] == 0


def test_a_slow_server_is_given_up_after_the_timeout_and_asked_again(tmp_path: Path) -> None:
    given_up = threading.Event()

    def slow(request: dict[str, Any]) -> Any:
        assert given_up.wait(60)
        return good(request)

    with serving([slow]) as server:
        found, _ = captioned(tmp_path, curation(server.url, timeout_seconds=1), count=1)
        given_up.set()
        assert len(server.requests) == 2
    assert found["clip-0"].caption == WORDS


def deep(levels: int) -> bytes:
    return b'{"a":' * levels


PACKED = gzip.compress(json.dumps(completion(json.dumps(PARTS))).encode())
SURROGATE = json.dumps(completion("")).replace('"content": ""', '"content": "\\ud800"').encode()


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        pytest.param(raw(deep(100_000)), "RecursionError", id="nested without end"),
        pytest.param(raw(b"[" * 1_000_000), "RecursionError", id="brackets"),
        pytest.param(raw(deep(100_000) + b"1" + b"}" * 100_000), "RecursionError", id="nested, closed"),
        pytest.param(
            says('{"subject": ' + '{"a":' * 900 + "1" + "}" * 901), "too long|malformed|text under|too deep", id="nested in the text"
        ),
        pytest.param(says('{"a":' * 3000 + "}" * 3000), "too deep", id="nested deep in the text"),
        pytest.param(raw(b" " * (5 << 20)), "larger than 4 MB", id="large"),
        pytest.param(lambda _: (200, {"content-encoding": "gzip"}, gzip.compress(bytes(50 << 20))), "comes as 'gzip'", id="bomb"),
        pytest.param(lambda _: (200, {"content-encoding": "br"}, b"x"), "comes as 'br'", id="brotli"),
        pytest.param(lambda _: (500, {"content-encoding": "gzip"}, PACKED), "comes as 'gzip'", id="bomb as error"),
        pytest.param(raw(SURROGATE), "no chat completion", id="half a pair"),
        pytest.param(says('{"subject": "\\ud800"}'), "surrogates not allowed", id="half a pair in the text"),
        pytest.param(raw(b"null"), "no chat completion", id="null"),
        pytest.param(raw(b'"text"'), "no chat completion", id="text"),
        pytest.param(raw(b'{"choices": {"0": 1}}'), "no chat completion", id="choices are an object"),
        pytest.param(raw(b'{"choices": [{"message": {"content": ["a"]}}]}'), "no chat completion", id="content is a list"),
        pytest.param(raw(b'{"choices": [{"message": {"content": 7}}]}'), "no chat completion", id="content is a number"),
        pytest.param(raw(b"1" * 5000), "malformed", id="a number of 5000 digits"),
        pytest.param(raw(b"\xff\xfe\x00"), "malformed", id="no text"),
    ],
)
def test_an_odd_answer_costs_its_clip_alone(tmp_path: Path, odd: Any, said: str) -> None:
    def answered(request: dict[str, Any]) -> Any:
        return odd(request) if darkest(request) else good(request)

    with serving() as server:
        server.always = answered
        with pytest.raises(UserError, match=rf"^1 of 3 clips wait for a caption \(malformed 1.*({said})"):
            captioned(tmp_path, curation(server.url, attempts=2))
        server.always = good
        assert len(captioned(tmp_path, curation(server.url))[0]) == 3


@pytest.mark.parametrize("count", ['"many"', "-5", "1e999", "null", "[]", "9" * 60, "true"])
def test_counts_of_tokens_that_are_none_are_not_added_up(tmp_path: Path, count: str) -> None:
    body = json.dumps(completion(json.dumps(PARTS))).replace("100", count).encode()
    with serving() as server:
        server.always = raw(body)
        found, metrics = captioned(tmp_path, curation(server.url), count=1)
    assert found["clip-0"].caption == WORDS
    assert 0 <= metrics["tokens_input"] <= 1


@pytest.mark.parametrize(
    "tags", ['{"subjects": {"a": 1}, "actions": [], "scenes": []}', '{"subjects": "dogs", "actions": [], "scenes": []}']
)
def test_tags_that_are_no_lists_are_asked_for_again(tmp_path: Path, tags: str) -> None:
    with serving([good, says(tags)]) as server:
        found, _ = captioned(tmp_path, curation(server.url, tags="endpoint", concurrency=1), count=1)
    assert found["clip-0"].tags == ("action:move", "subject:circle", "subject:shape")


def test_a_caption_without_end_is_not_searched_for_minutes(tmp_path: Path) -> None:
    with serving() as server:
        server.always = says("\n" * 1_500_000)
        began = time.monotonic()
        found, _ = captioned(tmp_path, curation(server.url, attempts=1, structured=False), count=1)
    assert found["clip-0"].problem.startswith("too long: 1500000 characters")
    assert time.monotonic() - began < 20


def test_the_timeout_is_of_the_whole_request_however_slowly_it_drips(tmp_path: Path) -> None:
    ended = threading.Event()
    with serving() as server:
        server.drip = ended
        began = time.monotonic()
        with pytest.raises(UserError, match=r"1 of 1 clips wait for a caption \(timeout 1"):
            captioned(tmp_path, curation(server.url, timeout_seconds=1, attempts=1), count=1)
        assert time.monotonic() - began < 10
        ended.set()


def test_retry_after_holds_all_requests_back(tmp_path: Path) -> None:
    seen: list[float] = []

    def noted(request: dict[str, Any]) -> Any:
        seen.append(time.monotonic())
        return good(request)

    with serving([status(429, retry_after="0.6")]) as server:
        server.always = noted
        began = time.monotonic()
        captioned(tmp_path, curation(server.url, concurrency=1), count=3)
    assert seen[0] - began >= 0.6
    assert len(seen) == 3


def test_requests_a_minute_are_never_exceeded(tmp_path: Path) -> None:
    with serving() as server:
        began = time.monotonic()
        captioned(tmp_path, curation(server.url, requests_a_minute=300, concurrency=8), count=5)
        assert time.monotonic() - began >= 4 * 60 / 300
        assert len(server.requests) == 5


def test_as_many_requests_as_asked_for_are_under_way_and_no_more(tmp_path: Path) -> None:
    def slow(request: dict[str, Any]) -> Any:
        time.sleep(0.2)
        return good(request)

    with serving() as server:
        server.always = slow
        captioned(tmp_path, curation(server.url, concurrency=3), count=7)
        assert server.most_under_way == 3


def test_the_key_comes_from_the_named_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEY", "secret")
    with serving() as server:
        captioned(tmp_path, curation(server.url, key_variable="OUR_KEY"), count=1)
        assert server.headers[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(("code", "look"), [(401, r"the key \(variable MUGV_CAPTION_KEY\)"), (403, "rights"), (404, "model's name")])
def test_a_wrong_key_or_model_stops_at_once_in_one_line(tmp_path: Path, code: int, look: str) -> None:
    with serving() as server:
        server.always = status(code)
        with pytest.raises(UserError, match=rf"curation\.caption\.url .* model vlm: the server answers {code} .*{look}") as raised:
            captioned(tmp_path, curation(server.url))
        assert len(server.requests) <= 2
    assert "\n" not in str(raised.value)


def test_a_server_that_is_down_leaves_all_clips_waiting_and_the_same_call_goes_on(tmp_path: Path) -> None:
    with serving() as server:
        port, url = server.server_address[1], server.url
    with pytest.raises(UserError, match=r"3 of 3 clips wait for a caption \(no connection 3; .*127\.0\.0\.1:.*\); run the same"):
        captioned(tmp_path, curation(url))
    assert not (tmp_path / "out" / "captions.jsonl").exists()
    with serving(port=port):
        found, _ = captioned(tmp_path, curation(url))
    assert [f.caption for f in found.values()] == [WORDS] * 3


def test_only_waiting_clips_are_asked_again_and_lost_tokens_are_counted(tmp_path: Path) -> None:
    def stubborn(request: dict[str, Any]) -> Any:
        """The darkest clip gets no usable answer."""
        return says("no JSON at all")(request) if darkest(request) else good(request)

    with serving() as server:
        server.always = stubborn
        with pytest.raises(
            UserError, match=r"1 of 3 clips wait for a caption \(malformed 1; malformed: no JSON object in 'no JSON at all'\)"
        ):
            captioned(tmp_path, curation(server.url))
        assert len(server.requests) == 2 + 4
        server.requests.clear()
        server.always = good
        found, metrics = captioned(tmp_path, curation(server.url))
        assert len(server.requests) == 1
    assert [f.caption for f in found.values()] == [WORDS] * 3
    assert metrics["tokens_output"] == 20 * (3 + 4), "four answers were paid for in vain"


def test_a_dead_server_is_not_asked_for_every_clip_of_a_large_shard(tmp_path: Path) -> None:
    with serving() as server:
        server.always = status(500)
        with pytest.raises(UserError, match=r"40 of 40 clips wait for a caption \(500 40"):
            captioned(tmp_path, curation(server.url, attempts=2), count=40, frames=1)
        assert len(server.requests) <= 2 * 10


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (REFUSAL, "refusal"),
        (json.dumps({**PARTS, "subject": "I cannot see", "motion": "I am unable to view the video"}), "refusal"),
        (json.dumps(dict.fromkeys(PARTS, "")), "empty"),
        (json.dumps({**PARTS, "motion": " ".join(f"word{k}" for k in range(300))}), "too long"),
        (json.dumps({**dict.fromkeys(PARTS, "none"), "subject": "dog"}), "too short: 4 words, at least 5"),
        (json.dumps(dict.fromkeys(PARTS, "这是一只狗在草地上奔跑的视频")), "wrong language: Han"),
    ],
)
def test_a_bad_caption_is_asked_again_with_more_chance_and_then_refused(tmp_path: Path, words: str, problem: str) -> None:
    with serving([says(words)] * 4) as server:
        found, metrics = captioned(tmp_path, curation(server.url, concurrency=1, minimum_words=5), count=2)
        assert [r["temperature"] for r in server.requests] == [0, 0.7, 0.7, 0.7, 0]
    assert found["clip-0"].caption == ""
    assert found["clip-0"].problem.startswith(problem)
    assert found["clip-0"].tokens_output == 80
    assert found["clip-1"].caption == WORDS
    assert metrics["refused"] == 1


def test_a_bad_caption_that_is_mended_is_kept(tmp_path: Path) -> None:
    with serving([says(REFUSAL), says("", finish="length"), says("", refusal="no")]) as server:
        found, _ = captioned(tmp_path, curation(server.url, concurrency=1), count=1)
    assert (found["clip-0"].caption, found["clip-0"].problem) == (WORDS, "")


def test_a_clip_that_a_well_server_refuses_does_not_wait_for_ever(tmp_path: Path) -> None:
    with serving([good, status(400)]) as server:
        found, _ = captioned(tmp_path, curation(server.url, concurrency=1))
        assert len(server.requests) == 3, "400 is not tried again"
    assert found["clip-1"].problem == "the server refuses it: 400: status 400 on purpose"
    with serving() as server:
        server.always = status(400)
        with pytest.raises(UserError, match=r"3 of 3 clips wait for a caption \(400 3"):
            captioned(tmp_path / "other", curation(server.url), part=tmp_path / "part")


def test_plain_captions_are_taken_as_they_are(tmp_path: Path) -> None:
    with serving() as server:
        found, _ = captioned(tmp_path, curation(server.url, structured=False), count=1)
        assert "response_format" not in server.requests[0]
    assert (found["clip-0"].caption, found["clip-0"].parts) == ("A red circle moves over the floor.", {})


def test_a_sidecar_caption_wins_and_is_never_asked_for(tmp_path: Path) -> None:
    with serving() as server:
        found, metrics = captioned(tmp_path, curation(server.url), caption="a dog runs", caption_source="sidecar")
        assert server.requests == []
    assert found == {}
    assert metrics["clips"] == 0


def test_tags_come_from_the_same_server_and_wrong_ones_are_asked_again(tmp_path: Path) -> None:
    bad_tags = says(json.dumps({"subjects": "dog", "actions": [1], "scenes": []}))
    with serving([good, bad_tags]) as server:
        found, _ = captioned(tmp_path, curation(server.url, tags="endpoint", concurrency=1), count=1)
        assert WORDS in server.requests[1]["messages"][0]["content"][0]["text"]
    assert found["clip-0"].tags == ("action:move", "subject:circle", "subject:shape")
    assert found["clip-0"].tokens_output == 60


def test_a_caption_is_not_paid_twice_when_only_its_tags_fail(tmp_path: Path) -> None:
    with serving([good]) as server:
        server.always = status(500)
        settings = curation(server.url, tags="endpoint", attempts=1)
        with pytest.raises(UserError, match="1 of 1 clips wait"):
            captioned(tmp_path, settings, count=1)
        server.always = good
        server.requests.clear()
        found, metrics = captioned(tmp_path, settings)
        assert [r["response_format"]["json_schema"]["name"] for r in server.requests] == ["tags"]
    assert found["clip-0"].caption == WORDS
    assert metrics["tokens_output"] == 40


def test_sidecar_captions_are_tagged_by_the_server_where_the_recipe_says_so(tmp_path: Path) -> None:
    with serving() as server:
        settings = Curation.model_validate({"caption": {"url": server.url, "model": "vlm"}, "tags": {"kind": "endpoint"}})
        found, _ = captioned(tmp_path, settings, caption="a red circle moves", caption_source="sidecar")
        assert {r["response_format"]["json_schema"]["name"] for r in server.requests} == {"tags"}
    assert {f.tags for f in found.values()} == {("action:move", "subject:circle", "subject:shape")}


def test_a_completion_without_usage_costs_nothing_instead_of_failing(tmp_path: Path) -> None:
    body = {**completion(json.dumps(PARTS)), "usage": None}
    with serving([raw(json.dumps(body).encode())]) as server:
        found, metrics = captioned(tmp_path, curation(server.url), count=1)
    assert found["clip-0"].caption == WORDS
    assert metrics["tokens_input"] == 0


def test_answers_of_one_model_are_never_taken_for_those_of_another(tmp_path: Path) -> None:
    with serving([good, good]) as server:
        server.always = status(500)
        with pytest.raises(UserError, match="1 of 3 clips wait"):
            captioned(tmp_path, curation(server.url, attempts=1, concurrency=1))
        server.always = good
        server.requests.clear()
        found, _ = captioned(tmp_path, curation(server.url, model="other"))
        assert len(server.requests) == 3
    assert {f.source for f in found.values()} == {"other"}
