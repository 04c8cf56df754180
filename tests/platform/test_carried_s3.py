"""Files that a recipe names, on their way through a real S3 server (rclone on loopback)."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Server, served

from mugv.errors import StoreError, UserError
from mugv.store import open_store
from mugv.store.carried import carry, local_path
from mugv.store.remote import remote_digest


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    with served(tmp_path, monkeypatch) as server:
        yield server


def test_a_carried_file_reaches_another_machine_and_is_fetched_again_when_its_copy_is_damaged(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("right")
    uri = carry(file, open_store("s3://bucket/team", tmp_path / "mine"), "align.labels")
    assert uri.startswith("s3://bucket/team/carried/")
    path = local_path(uri)
    assert path.is_relative_to(tmp_path / "state" / "cache")
    path.chmod(0o644)
    path.write_text("wrong")
    assert local_path(uri).read_text() == "right"


def test_a_carried_object_that_was_replaced_in_the_bucket_is_refused(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("right")
    uri = carry(file, open_store("s3://bucket", tmp_path / "mine"), "align.labels")
    (server.root / uri.removeprefix("s3://")).write_text("wrong")
    with pytest.raises(StoreError, match=r"labels.jsonl: damaged since it was published"):
        local_path(uri)


def test_weights_in_a_bucket_are_fetched_once_and_anew_when_they_change(server: Server, tmp_path: Path) -> None:
    weights = server.root / "bucket" / "weights" / "dit"
    (weights / "model").mkdir(parents=True)
    (weights / "config.json").write_text("{}")
    (weights / "model" / "0.bin").write_bytes(bytes(1000))
    (server.root / "bucket" / "weights" / "dit-other.json").write_text("not of the prefix")
    first, folder = remote_digest("s3://bucket/weights/dit"), local_path("s3://bucket/weights/dit/")
    assert folder.name == "dit"
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["0.bin", "config.json"]
    assert local_path("s3://bucket/weights/dit") == folder
    assert local_path("s3://bucket/weights/dit/config.json").read_text() == "{}"
    (folder / "config.json").write_text("[]")
    assert (local_path("s3://bucket/weights/dit") / "config.json").read_text() == "{}"
    (weights / "config.json").write_text('{"b": 1}')
    assert remote_digest("s3://bucket/weights/dit") != first
    assert (local_path("s3://bucket/weights/dit") / "config.json").read_text() == '{"b": 1}'


def test_many_ranks_may_fetch_the_same_at_once(server: Server, tmp_path: Path) -> None:
    folder = server.root / "bucket" / "vae"
    folder.mkdir()
    (folder / "model.bin").write_bytes(bytes(1 << 20))
    found: list[bytes] = []

    def fetch() -> None:
        found.append((local_path("s3://bucket/vae") / "model.bin").read_bytes())

    threads = [threading.Thread(target=fetch) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [bytes(1 << 20)] * 16
    assert [p for p in (tmp_path / "state" / "cache" / "remote").iterdir() if p.name.endswith((".stale",)) or len(p.name) > 90] == []


@pytest.mark.parametrize("uri", ["s3://bucket/nothing", "s3://absent/weights"])
def test_what_is_not_in_the_bucket_is_one_line(server: Server, uri: str) -> None:
    with pytest.raises(UserError, match=r"no such (object|bucket)") as caught:
        local_path(uri)
    assert "\n" not in str(caught.value)
