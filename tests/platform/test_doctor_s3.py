"""`mugv doctor` at a real S3 server: keys, bucket, a probe; the bucket made on request."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Server, served
from typer.testing import CliRunner

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "unit"))

from kfp_recorder import recording_server  # noqa: E402

from mugv.cli.main import app  # noqa: E402
from mugv.errors import UserError  # noqa: E402
from mugv.platform.doctor import Finding  # noqa: E402
from mugv.platform.doctor.services import store  # noqa: E402
from mugv.store import open_store  # noqa: E402


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


@pytest.mark.parametrize("command", [("submit",), ("schedule", "--cron", "0 0 3 * * *")])
def test_nothing_is_started_for_a_bucket_that_is_not_there_or_keys_that_are_wrong(
    server: Server, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    with recording_server() as recorder:
        monkeypatch.setenv("MUGV_STORE", "s3://fresh/x")
        done = CliRunner().invoke(app, [*command, "--endpoint", recorder.url])
        assert (done.exit_code, done.output.count("\n")) == (2, 1)
        assert done.output.startswith("error: store s3://fresh/x: no such bucket; make it")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        assert CliRunner().invoke(app, [*command, "--endpoint", recorder.url]).exit_code == 2
        assert recorder.calls == []
