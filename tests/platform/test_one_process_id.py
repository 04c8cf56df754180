"""Containers that share a volume have equal process ids (each is process 1 of its own): nothing may be named after them."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import Server, served

from mugv.durable import ABANDONED_SECONDS, replace_text, sweep
from mugv.errors import UserError
from mugv.platform.claim import claimed
from mugv.store import open_store
from mugv.store.base import Ref

MANY = 32


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with served(tmp_path, monkeypatch) as server:
        yield server


def at_once(monkeypatch: pytest.MonkeyPatch, action: Callable[[int], None], many: int = MANY) -> list[int | None]:
    """Exit codes of `many` processes of one id that do `action` at the same time."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(many)

    def act(number: int) -> None:
        gate.wait(60)
        action(number)

    processes = [context.Process(target=act, args=(k,)) for k in range(many)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def published(tmp_path: Path) -> Ref:
    folder = tmp_path / "out"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.bin").write_bytes(os.urandom(1 << 20))
    (folder / "config.json").write_text("{}")
    return open_store("s3://bucket/team", tmp_path / "cache").publish(folder, "vae/k1", "k1")


def whole(tmp_path: Path, ref: Ref) -> Callable[[int], None]:
    """Fetch and read, as a stage does, while the others fetch."""

    def fetch(number: int) -> None:
        folder = open_store("s3://bucket/team", tmp_path / "cache").fetch(ref)
        for _ in range(5):
            assert (folder / "model" / "weights.bin").read_bytes() == (tmp_path / "out" / "model" / "weights.bin").read_bytes()
            assert (folder / "config.json").read_text() == "{}"

    return fetch


def test_parallel_fetches_of_one_output_all_succeed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = published(tmp_path)
    assert at_once(monkeypatch, whole(tmp_path, ref)) == [0] * MANY
    cache = tmp_path / "cache"
    assert {p.name for p in cache.iterdir()} - {".checked"} == {".arriving", ref.digest}
    assert list((cache / ".arriving").iterdir()) == []
    assert sorted(p.name for p in (cache / ref.digest).rglob("*") if p.is_file()) == ["config.json", "manifest.json", "weights.bin"]


def test_damaged_cache_is_mended_under_readers_and_never_trusted(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = published(tmp_path)
    folder = open_store("s3://bucket/team", tmp_path / "cache").fetch(ref)
    weights = folder / "model" / "weights.bin"
    weights.write_bytes(bytes(1 << 20))
    (folder / "config.json").unlink()
    assert at_once(monkeypatch, whole(tmp_path, ref)) == [0] * MANY


def test_text_written_by_many_at_once_is_one_of_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(number: int) -> None:
        for _ in range(20):
            replace_text(tmp_path / "record.json", str(number) * 5000, lasting=False)

    assert at_once(monkeypatch, write) == [0] * MANY
    text = (tmp_path / "record.json").read_text()
    assert text in {str(k) * 5000 for k in range(MANY)}
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_output_published_by_many_at_once_is_whole_and_of_one_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")

    def publish(number: int) -> None:
        folder = tmp_path / f"out-{number}"
        folder.mkdir()
        for name in ("a", "b"):
            (folder / name).write_text(str(number) * 1000)
        ref = store.publish(folder, "vae/k1", "k1")
        found = store.fetch(ref)
        assert (found / "a").read_text() == (found / "b").read_text()

    assert at_once(monkeypatch, publish) == [0] * MANY
    assert list((tmp_path / "store" / ".partial").iterdir()) == []


def test_one_of_many_tries_works_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mugv.platform.claim.POLL_SECONDS", 0.01)

    def work(number: int) -> None:
        with claimed(tmp_path / "work" / "k") as mine:
            alone = os.open(tmp_path / "alone", os.O_CREAT | os.O_EXCL)
            (mine.work / str(number)).write_text("")
            os.close(alone)
            (tmp_path / "alone").unlink()

    assert at_once(monkeypatch, work) == [0] * MANY
    with claimed(tmp_path / "work" / "k") as mine:
        assert {p.name for p in mine.work.iterdir()} == {str(k) for k in range(MANY)}


def test_what_a_killed_process_left_goes_after_a_day_and_nothing_else(tmp_path: Path) -> None:
    for name, age in (("old", 1.1), ("young", 0.5)):
        (tmp_path / f".{name}").mkdir()
        (tmp_path / f".{name}" / "part").write_text("")
        for path in (tmp_path / f".{name}" / "part", tmp_path / f".{name}"):
            now = path.stat().st_mtime - age * ABANDONED_SECONDS
            os.utime(path, (now, now))
    (tmp_path / "kept").write_text("")
    os.utime(tmp_path / "kept", (0, 0))
    sweep(tmp_path, ".*")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".young", "kept"]


def test_cache_entry_that_lost_all_files_but_its_manifest_is_fetched_again(server: Server, tmp_path: Path) -> None:
    ref = published(tmp_path)
    store = open_store("s3://bucket/team", tmp_path / "cache")
    folder = store.fetch(ref)
    for path in (folder / "config.json", folder / "model" / "weights.bin"):
        path.unlink()
    whole(tmp_path, ref)(0)


def test_cache_entry_without_its_manifest_is_fetched_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.01)
    ref = published(tmp_path)
    store = open_store("s3://bucket/team", tmp_path / "cache")
    (store.fetch(ref) / "manifest.json").unlink()
    server.stop()
    with pytest.raises(UserError):
        store.fetch(ref)
    server.start()
    whole(tmp_path, ref)(0)
