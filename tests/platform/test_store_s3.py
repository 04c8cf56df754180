"""The S3 store against a real S3 server on loopback (rclone), through its outages and refusals."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Server, served, without_pauses

from mugv.errors import StoreError, UserError
from mugv.store import open_store
from mugv.store.base import Store


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with served(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def store(server: Server, tmp_path: Path) -> Store:
    return open_store("s3://bucket/team/mugv", tmp_path / "cache")


def write_output(folder: Path) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.bin").write_bytes(os.urandom(6 << 20))
    (folder / "config.json").write_text("{}")
    return folder


def test_output_survives_the_way_to_the_bucket_and_back(store: Store, tmp_path: Path) -> None:
    out = write_output(tmp_path / "out")
    ref = store.publish(out, "vae/k1", "k1")
    assert store.find("vae/k1") == ref
    folder = store.fetch(ref)
    assert (folder / "model" / "weights.bin").read_bytes() == (out / "model" / "weights.bin").read_bytes()
    assert store.list("vae") == ["vae/k1/config.json", "vae/k1/manifest.json", "vae/k1/model/weights.bin"]


def test_half_uploaded_output_is_not_found(store: Store, tmp_path: Path) -> None:
    out = write_output(tmp_path / "out")
    store.put_file(out / "config.json", "vae/k1/config.json")
    assert store.find("vae/k1") is None
    assert store.publish(out, "vae/k1", "k1") == store.find("vae/k1")


def test_second_fetch_comes_from_the_local_cache(store: Store, server: Server, tmp_path: Path) -> None:
    ref = store.publish(write_output(tmp_path / "out"), "vae/k1", "k1")
    first = store.fetch(ref)
    server.stop()
    assert store.fetch(ref) == first


def test_object_changed_in_the_bucket_is_refused(store: Store, server: Server, tmp_path: Path) -> None:
    ref = store.publish(write_output(tmp_path / "out"), "vae/k1", "k1")
    (server.root / "bucket" / "team" / "mugv" / "vae" / "k1" / "config.json").write_text("[]")
    with pytest.raises(StoreError, match=r"config\.json: damaged since it was published"):
        store.fetch(ref)
    assert not list((tmp_path / "cache").glob("*/manifest.json"))


def test_upload_goes_on_when_the_server_comes_back(store: Store, server: Server, tmp_path: Path) -> None:
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()
    ref = store.publish(write_output(tmp_path / "out"), "vae/k1", "k1")
    back.join()
    assert store.find("vae/k1") == ref


def test_server_that_stays_away_is_one_line(store: Store, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.01)
    server.stop()
    with pytest.raises(StoreError, match=r"failed 6 times .*; run again when it is back") as caught:
        store.find("vae/k1")
    assert "\n" not in str(caught.value)


def test_wrong_secret_is_refused_at_once_by_name(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    without_pauses(monkeypatch)
    with pytest.raises(StoreError, match=r"refused .*; check the bucket, the keys and the endpoint"):
        open_store("s3://bucket/x", tmp_path / "cache").find("vae/k1")


def test_missing_keys_name_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MUGV_S3_ACCESS_KEY", "MUGV_S3_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="no keys; set MUGV_S3_ACCESS_KEY and MUGV_S3_SECRET_KEY"):
        open_store("s3://bucket/x", tmp_path)


def test_removed_output_is_gone(store: Store, tmp_path: Path) -> None:
    store.publish(write_output(tmp_path / "out"), "vae/k1", "k1")
    store.remove("vae/k1")
    assert store.find("vae/k1") is None
    assert store.list("vae/k1") == []
