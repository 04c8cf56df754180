"""`mugv doctor` at a real S3 server: keys, bucket, a probe; the bucket made on request."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Server, served
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.errors import UserError
from mugv.platform.doctor import Finding
from mugv.platform.doctor.services import store
from mugv.store import open_store


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    with served(tmp_path, monkeypatch) as server:
        yield server


def look(address: str, create: bool = False) -> dict[str, Finding]:
    return {found.check: found for found in store(address, create)}


def test_a_store_that_works_is_told_and_the_probe_leaves_nothing(server: Server) -> None:
    found = look("s3://bucket/team")
    assert {each.state for each in found.values()} == {"ok"}
    assert list(found) == ["store keys", "store bucket", "store probe"]
    assert [p for p in (server.root / "bucket").rglob("*") if p.is_file()] == []


def test_a_missing_bucket_is_one_line_and_made_on_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such bucket" in look("s3://fresh/x")["store bucket"].line()
    monkeypatch.setenv("MUGV_STORE", "s3://fresh/x")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 2
    done = CliRunner().invoke(app, ["doctor", "--create-bucket"])
    assert done.exit_code == 0, done.output
    assert "s3://fresh was made" in done.output
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_refused_keys_are_told_within_one_try(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "check the keys" in look("s3://bucket/x")["store bucket"].line()


def test_what_submits_without_a_bucket_is_told_to_make_it(server: Server, tmp_path: Path) -> None:
    from mugv.store.carried import carry

    (tmp_path / "labels.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"fresh.*no such .*bucket.*mugv doctor --create-bucket") as caught:
        carry(tmp_path / "labels.jsonl", open_store("s3://fresh/x", tmp_path / "cache"), "align.labels")
    assert "\n" not in str(caught.value)
