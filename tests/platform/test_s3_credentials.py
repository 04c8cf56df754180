"""Keys from every source that AWS's tools know, and TLS with an authority of one's own: real servers on loopback."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import certificates
import pytest
from s3_server import KEYS, Server, free_port, served, without_pauses

from mugv.errors import StoreError, UserError
from mugv.store import open_store
from mugv.store.s3_credentials import source

NAMES = [
    "MUGV_S3_ACCESS_KEY",
    "MUGV_S3_SECRET_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_ENDPOINT_URL_STS",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "MUGV_S3_CA",
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
]
STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>""".format(*KEYS)
METADATA = {"Code": "Success", "AccessKeyId": KEYS[0], "SecretAccessKey": KEYS[1], "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with served(tmp_path, monkeypatch) as server:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        without_pauses(monkeypatch)
        yield server


@contextmanager
def answering(answers: dict[str, tuple[int, str]]) -> Iterator[tuple[str, list[str]]]:
    """A server of fixed answers by path; its address and the requests that came."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            asked.append(self.path)
            status, text = answers.get(urlsplit(self.path).path, (404, ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *args: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", asked
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def works(tmp_path: Path) -> bool:
    return open_store("s3://bucket/x", tmp_path / "cache").list() == []


def refusal(tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        works(tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_keys_of_a_person_s_file_and_profile(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".aws").mkdir()
    lines = f"aws_access_key_id = {KEYS[0]}\naws_secret_access_key = {KEYS[1]}\n"
    (tmp_path / ".aws" / "credentials").write_text(f"[default]\n{lines}[team]\n{lines}")
    assert works(tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert works(tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "absent")
    assert "profile absent" in refusal(tmp_path)
    (tmp_path / ".aws" / "credentials").write_text("no section\n")
    assert "gives no keys" in refusal(tmp_path)


def test_a_pod_s_service_account_gets_its_keys_from_the_token_service(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret-jwt")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/mugv")
    with answering({"/": (200, STS)}) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        assert works(tmp_path)
        assert works(tmp_path)
    query = parse_qs(urlsplit(asked[0]).query)
    assert (query["RoleArn"], query["WebIdentityToken"]) == (["arn:aws:iam::1:role/mugv"], ["secret-jwt"])
    assert len(asked) == 1, "keys are kept until they end"


@pytest.mark.parametrize("answer", [(403, "<Error/>"), (200, "<html>"), (503, "")])
def test_a_token_service_that_refuses_is_one_line_without_the_token(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str]
) -> None:
    (tmp_path / "token").write_text("secret-jwt")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/mugv")
    with answering({"/": answer}) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        line = refusal(tmp_path)
    assert "the token service gives no keys for arn:aws:iam::1:role/mugv" in line
    assert "secret-jwt" not in line
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{free_port()}")
    assert "the token service gives no keys" in (line := refusal(tmp_path))
    assert "secret-jwt" not in line
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "absent"))
    assert "no such file; is the service account's token mounted?" in refusal(tmp_path)


def test_keys_of_a_container_and_of_a_machine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = "/latest/meta-data/iam/security-credentials/"
    answers = {"/mine": METADATA, f"{roles}role": METADATA}
    texts = {path: (200, json.dumps(value)) for path, value in answers.items()}
    with answering({**texts, roles: (200, "role"), "/latest/api/token": (200, "t")}) as (url, asked):
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/mine")
        assert works(tmp_path)
        monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        assert works(tmp_path)
    assert asked == ["/mine", "/latest/api/token", roles, f"{roles}role"]


def test_no_metadata_server_is_told_within_seconds_and_it_is_the_last_that_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert "no keys; set MUGV_S3_ACCESS_KEY" in refusal(tmp_path)
        assert time.monotonic() - began < 4
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MUGV_S3_ACCESS_KEY", KEYS[0])
    assert "MUGV_S3_ACCESS_KEY is set alone; set MUGV_S3_ACCESS_KEY and MUGV_S3_SECRET_KEY" in refusal(tmp_path)
    monkeypatch.setenv("MUGV_S3_SECRET_KEY", KEYS[1])
    assert source() == "MUGV_S3_ACCESS_KEY and MUGV_S3_SECRET_KEY"
    assert works(tmp_path)


@pytest.fixture
def secured(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PEM of the authority of the server, which speaks TLS now."""
    server.stop()
    authority, server.tls = certificates.make(tmp_path)
    server.start()
    monkeypatch.setenv("MINIO_ENDPOINT", f"https://127.0.0.1:{server.port}")
    monkeypatch.setenv("MUGV_S3_ACCESS_KEY", KEYS[0])
    monkeypatch.setenv("MUGV_S3_SECRET_KEY", KEYS[1])
    return authority


@pytest.mark.parametrize("name", ["MUGV_S3_CA", "AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_server_with_an_authority_of_one_s_own_is_used(secured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, str(secured))
    assert works(tmp_path)


def test_an_unknown_authority_is_told_at_once(secured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "its certificate is not trusted" in refusal(tmp_path)
    assert "MUGV_S3_CA" in refusal(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("MUGV_S3_CA", str(certificates.make(other)[0]))
    assert "its certificate is not trusted" in refusal(tmp_path)


@pytest.mark.parametrize(("made", "why"), [({"host": "10.1.2.3"}, "IP address mismatch"), ({"expired": True}, "expired")])
def test_a_certificate_of_another_host_or_time_is_told_at_once(
    secured: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: dict[str, Any], why: str
) -> None:
    server.stop()
    authority, server.tls = certificates.make(tmp_path, **made)
    server.start()
    monkeypatch.setenv("MUGV_S3_CA", str(authority))
    assert why in refusal(tmp_path)


def test_a_file_that_is_no_certificate_and_a_server_without_tls_are_told(
    secured: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUGV_S3_CA", str(tmp_path / "absent.pem"))
    assert "MUGV_S3_CA" in (line := refusal(tmp_path))
    assert "No such file" in line
    (tmp_path / "text.pem").write_text("none")
    monkeypatch.setenv("MUGV_S3_CA", str(tmp_path / "text.pem"))
    assert "holds no certificate" in refusal(tmp_path)
    monkeypatch.delenv("MUGV_S3_CA")
    server.stop()
    server.tls = None
    server.start()
    assert "it does not speak TLS; write its address with http://" in refusal(tmp_path)


def test_plain_http_to_a_tls_server_is_told_at_once(secured: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_ENDPOINT", f"http://127.0.0.1:{server.port}")
    with pytest.raises(StoreError, match="HTTP request to an HTTPS server"):
        works(tmp_path)
