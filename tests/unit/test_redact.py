"""Failures prevented: a password or a signature of a URI in a terminal, a record, a manifest or a tracker."""

import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mugv.errors import UserError
from mugv.platform.local import RunLog, StageFailedError
from mugv.recipe import load_recipe
from mugv.redact import RedactingFormatter, has_secrets, redact, show_uncaught, unsigned

SECRET = "S3cr3tPw9XyZ"
SIGNED = "https://b.s3.amazonaws.com/a.mp4?X-Amz-Credential=AKIA%2F20261128&X-Amz-Date=20261128T000000Z&X-Amz-Signature="


@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{SECRET}@host/a.mp4",
        f"http://{SECRET}@host:81/a.mp4?x=1",
        f"source http://user:{SECRET}@127.0.0.1:45819/s503.mp4?a=1: get failed 6 times",
        f"postgresql+psycopg2://mlflow:{SECRET}@db/mlflow",
        f"https://user:p/{SECRET}@host/a",
        f"https://user:p#{SECRET}@host/a",
        f"https://user:it's{SECRET}@host/a",
        f"redirected to //user:{SECRET}@host/a",
        f"{SIGNED}{SECRET}",
        f"{SIGNED}{SECRET}: get failed 6 times (the server answers 503)",
        f"https://a.blob.core.windows.net/c/a.mp4?sv=2022&sr=b&sig={SECRET}%3D&se=2026",
        f"https://storage.googleapis.com/b/a?GoogleAccessId=a%40b&Expires=1&Signature={SECRET}%2B",
        f"https://cdn/a?Policy={SECRET}&Key-Pair-Id=K1",
        f"https://b.oss-cn.aliyuncs.com/a?OSSAccessKeyId={SECRET}&Expires=1",
        f"https://cdn/a?hdnts=exp=1~acl=/*~hmac={SECRET}",
        f"https://host/a?access_token={SECRET}#x",
        f"https://host/a#access_token={SECRET}",
        f"https://host/a?X%2DAmz%2DSignature={SECRET}",
        f"https://host/a;jsessionid={SECRET}",
        f"HTTPConnectionPool(host='h', port=1): Max retries exceeded with url: /s.mp4?X-Amz-Signature={SECRET} (Caused by x)",
        f"<a href='https://host/a?x=1&amp;token={SECRET}'>",
        f'{{"uri": "https://host/a?x=1\\u0026token={SECRET}"}}',
        f"https://host/a?next=http%3A%2F%2Fuser%3A{SECRET}%40host",
        "https://host/a?q=S3cr3tPw9XyZS3cr3tPw9XyZ",
        f"Authorization: Basic {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"api_key={SECRET}",
    ],
)
def test_no_secret_outlives_the_redactor(text: str) -> None:
    assert SECRET not in redact(text)
    assert has_secrets(text)
    assert redact(redact(text)) == redact(text)
    assert SECRET not in str(UserError(text))


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/a@2x.mp4?v=dQw4w9WgXcQ&t=10",
        "https://host/f?id=550e8400-e29b-41d4-a716-446655440000&file=my-holiday-video-of-2024.mp4",
        "s3://bucket/a@b/c.mp4",
        "/data//a@b.mp4: 10 of 12 frames; keyword=value a@b.org // x@y",
        "['http://host', 'a@b']",
        "file:///a%20b/c.mp4 # a=b",
    ],
)
def test_a_text_without_secrets_stays(text: str) -> None:
    assert redact(text) == text
    assert not has_secrets(text)


def test_what_is_cut_out_leaves_the_place_and_the_message() -> None:
    said = redact(f"source http://user:{SECRET}@h:1/s.mp4?a=1&X-Amz-Signature={SECRET}: get failed (503)")
    assert said == "source http://***@h:1/s.mp4?a=1&X-Amz-Signature=***: get failed (503)"


def test_a_file_is_the_same_when_its_list_is_signed_again() -> None:
    assert unsigned(f"{SIGNED}one") == unsigned(f"{SIGNED}two".replace("20261128T", "20261129T"))
    assert unsigned("http://u:a@h/x?v=1&sig=q&se=2026#t") == "http://h/x?v=1"
    assert unsigned("http://h/x?v=1") != unsigned("http://h/x?v=2")
    assert unsigned("http://h/x") == "http://h/x"
    one, two = (unsigned(f"http://h/x?id={SECRET}{SECRET}{k}") for k in (1, 2))
    assert one != two
    assert SECRET not in one
    assert unsigned(one) == one
    assert SECRET not in unsigned(f"http://[::1/{SECRET}?token={SECRET}".replace(f"/{SECRET}", "/"))


@given(st.text(max_size=200))
def test_any_text_is_taken_and_redacted_once_and_for_all(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.text("abcXYZ019-._~%!$&'()*+,;=:", min_size=1, max_size=40), st.sampled_from(["http", "s3", "sqlite+x"]))
def test_whatever_stands_before_the_host_is_hidden(user: str, scheme: str) -> None:
    assert redact(f"at {scheme}://{user}@host/x y") == f"at {scheme}://***@host/x y"


def test_a_run_s_log_and_the_failure_of_a_stage_hold_no_secret(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "kfp.log")
    log.write(f"first http://u:{SECRET}@h/x\nsecond http://u:{SECRET[:4]}")
    log.write(f"{SECRET[4:]}@h/x\nmugv-error: http://u:{SECRET}@h/last")
    log.close()
    assert log.path.read_text() == "first http://***@h/x\nsecond http://***@h/x\nmugv-error: http://***@h/last\n"
    assert log.find(re.compile("mugv-error")) == "mugv-error: http://***@h/last"
    assert SECRET not in str(StageFailedError(f"http://u:{SECRET}@h", by_user=True))


def test_lines_of_other_libraries_and_what_nobody_caught_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    line = logging.LogRecord("urllib3", logging.WARNING, "", 0, "Failed to parse headers (url=%s)", (f"{SIGNED}{SECRET}",), None)
    assert SECRET not in RedactingFormatter("%(name)s: %(message)s").format(line)
    try:
        raise ValueError(f"{SIGNED}{SECRET}")
    except ValueError as error:
        show_uncaught(ValueError, error, error.__traceback__)
    said = capsys.readouterr().err
    assert SECRET not in said
    assert "ValueError: https://b.s3.amazonaws.com/a.mp4?X-Amz-Credential=***" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.videos", f"s3://KEY:{SECRET}@bucket/raw"),
        ("data.videos", f"https://h/list.parquet?sig={SECRET}"),
        ("curation.caption.url", f"http://user:{SECRET}@vllm:8000/v1"),
        ("curation.duplicates.earlier", f"[a, 's3://KEY:{SECRET}@bucket/raw']"),
    ],
)
def test_a_recipe_that_holds_a_secret_is_refused_without_showing_it(key: str, value: str) -> None:
    """It would go into records, the compiled pipeline and the tracker."""
    with pytest.raises(UserError, match=r"give it by the environment|set the environment variable") as error:
        load_recipe(Path("configs/tiny.yaml"), [f"{key}={value}"])
    assert key in str(error.value)
    assert SECRET not in str(error.value)
