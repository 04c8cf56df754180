"""The directory store: what is published appears whole or not at all, and damage is seen."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from torch.distributed.checkpoint import CheckpointException

from mugv.errors import StoreError, UserError
from mugv.store import DirectoryStore, explained, open_store
from mugv.store.directory import _signature
from mugv.store.manifest import Manifest, ManifestError


def write_output(folder: Path, size: int = 1000) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a" * size)
    (folder / "sub" / "b.txt").write_text("b")
    return folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB that is really full when it is full."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_published_output_is_found_with_its_files_and_digest(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    assert store.find("stage/k1") == ref
    folder = store.fetch(ref)
    assert (folder / "sub" / "b.txt").read_text() == "b"
    assert store.list("stage/k1") == ["stage/k1/a.bin", "stage/k1/manifest.json", "stage/k1/sub/b.txt"]


def test_same_content_gives_same_digest_wherever_it_is(tmp_path: Path) -> None:
    first = open_store(tmp_path / "s1").publish(write_output(tmp_path / "o1"), "x/k", "k")
    second = open_store(tmp_path / "s2").publish(write_output(tmp_path / "o2"), "y/other", "other")
    assert first.digest == second.digest


def test_output_without_manifest_does_not_exist_and_can_be_published_again(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    write_output(tmp_path / "store" / "stage" / "k1")
    assert store.find("stage/k1") is None
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    assert store.find("stage/k1") == ref


def test_publisher_killed_at_any_moment_leaves_no_half_output(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from mugv.store import open_store
        store, out = open_store(sys.argv[1]), Path(sys.argv[2])
        out.mkdir()
        for i in range(400):
            (out / f"{i}.bin").write_bytes(b"x" * 20000)
        print("ready", flush=True)
        store.publish(out, "stage/k", "k")
    """)
    found = []
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1):
        root = tmp_path / f"store-{delay}"
        out = str(tmp_path / f"out-{delay}")
        child = subprocess.Popen([sys.executable, "-c", program, str(root), out], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        store = DirectoryStore(root)
        ref = store.find("stage/k")
        found.append(ref is not None)
        if ref:
            assert len(list(store.fetch(ref).glob("*.bin"))) == 400
        else:
            assert not (root / "stage" / "k").exists()
    assert found[0] is False


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_file_is_seen_before_it_is_read(tmp_path: Path, damage: str) -> None:
    store = DirectoryStore(tmp_path / "store")
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    store.fetch(ref)
    path = tmp_path / "store" / "stage" / "k1" / "a.bin"
    path.chmod(0o644)
    path.unlink() if damage == "missing" else path.write_bytes(b"b" * 1000)
    with pytest.raises(StoreError, match=r"a\.bin: damaged since it was published"):
        store.fetch(ref)


def test_removed_output_is_reported_by_name(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    store.remove("stage/k1")
    assert store.find("stage/k1") is None
    with pytest.raises(StoreError, match="stage/k1: the output is gone"):
        store.fetch(ref)


def test_full_disk_while_publishing_is_one_line_and_publishes_nothing(tmp_path: Path, tiny_disk: Path) -> None:
    store = DirectoryStore(tiny_disk / "store")
    with pytest.raises(StoreError, match="No space left on device; free some space and run again") as caught:
        store.publish(write_output(tmp_path / "out", size=1 << 20), "stage/k1", "k1")
    assert "\n" not in str(caught.value)
    assert store.find("stage/k1") is None
    assert list((tiny_disk / "store" / ".partial").iterdir()) == []
    store.publish(write_output(tmp_path / "small"), "stage/k2", "k2")
    assert store.find("stage/k2") is not None


def test_read_only_store_can_be_read_and_says_so_when_written(tmp_path: Path, tiny_disk: Path) -> None:
    store = DirectoryStore(tiny_disk / "store")
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert (store.fetch(ref) / "a.bin").is_file()
    with pytest.raises(StoreError, match="Read-only file system; the file system is read-only; give a writable folder"):
        store.publish(write_output(tmp_path / "out2"), "stage/k2", "k2")


def test_forbidden_folder_is_one_line_that_names_it() -> None:
    with pytest.raises(StoreError, match="/state/x: Permission denied; check its permissions"), explained("/state"):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), "/state/x")


def test_files_round_trip_by_name(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    (tmp_path / "f").write_text("hello")
    store.put_file(tmp_path / "f", "reports/f.txt")
    store.get_file("reports/f.txt", tmp_path / "g")
    assert (tmp_path / "g").read_text() == "hello"
    with pytest.raises(StoreError, match=r"reports/none\.txt: no such object"):
        store.get_file("reports/none.txt", tmp_path / "g")


def test_unknown_store_scheme_names_what_is_accepted() -> None:
    with pytest.raises(UserError, match=r"scheme 'gs' is not known; use a folder, file:// or s3://bucket/prefix"):
        open_store("gs://bucket/x")


HOSTILE = [b"", b"[]", b"{", b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"key": "k1", "digest": "d", "files": {"a": {"sha257": "0"}}}']


@pytest.mark.parametrize("text", HOSTILE)
def test_output_with_a_damaged_manifest_counts_as_absent_and_is_replaced(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = DirectoryStore(tmp_path / "store")
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    path = tmp_path / "store" / "stage" / "k1" / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(text)
    assert store.find("stage/k1") is None
    assert f"{path}: damaged" in caplog.text
    with pytest.raises(StoreError, match=r"manifest\.json: damaged .*; run again to make"):
        store.fetch(ref)
    assert store.publish(write_output(tmp_path / "again"), "stage/k1", "k1") == ref == store.find("stage/k1")


def test_no_flipped_bit_of_a_manifest_goes_unseen_or_is_a_traceback(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    path = tmp_path / "store" / "stage" / "k1" / "manifest.json"
    whole = path.read_bytes()
    path.chmod(0o644)
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(bytes(flipped))
        assert store.find("stage/k1") in (None, ref)
        with suppress(StoreError):
            store.fetch(ref)


@pytest.mark.parametrize("name", ["/abs", "../up", "a/../../up", ""])
def test_manifest_of_a_stranger_cannot_name_files_outside_of_its_folder(name: str) -> None:
    text = json.dumps({"key": "k", "digest": "d", "files": {name: {"sha256": "0" * 64, "bytes": 1}}})
    with pytest.raises(ManifestError, match="not a relative path inside the output"):
        Manifest.parse(text)


def test_file_replaced_under_its_old_modification_time_is_seen(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    path = store.fetch(ref) / "a.bin"
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"b" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreError, match=r"a\.bin: damaged since it was published"):
        store.fetch(ref)


def test_rot_that_changes_no_time_is_seen_when_asked_to_verify(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    path = store.fetch(ref) / "a.bin"
    path.chmod(0o644)
    path.write_bytes(b"b" * 1000)
    # What the disk does by itself leaves the signature of the last check as it is.
    (tmp_path / "store" / ".checked" / "k1").write_text(
        _signature(path.parent, Manifest.parse((path.parent / "manifest.json").read_bytes()))
    )
    assert store.fetch(ref) == path.parent
    with pytest.raises(StoreError, match=r"a\.bin: damaged since it was published"):
        store.fetch(ref, verify=True)


@pytest.mark.parametrize("name", ["st %20 ü#?x", "r#1", "50%25", "a?b", "c+d&e=f", "s3:x", b"\xff\xfe".decode("utf-8", "surrogateescape")])
def test_every_character_of_a_path_is_a_character_of_its_name(tmp_path: Path, name: str) -> None:
    root = tmp_path / name / "store"
    store = open_store(str(root))
    ref = store.publish(write_output(tmp_path / "out"), "stage/k1", "k1")
    assert (root / "stage" / "k1" / "a.bin").is_file()
    assert store.fetch(ref) == root / "stage" / "k1"
    assert open_store(store.uri).find("stage/k1") == ref
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


DISK_ERRORS = {
    "torch": RuntimeError("basic_ios::clear: iostream error"),
    "torch zip": RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 1024 vs 918"),
    "safetensors": Exception('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "disk": OSError(errno.EIO, "Input/output error", "/state/x"),
}


@pytest.mark.parametrize("error", DISK_ERRORS.values(), ids=DISK_ERRORS)
def test_full_or_failing_disk_is_one_line_however_a_library_wraps_it(error: Exception) -> None:
    for raised in (error, CheckpointException("write", {0: (error, None)})):
        with pytest.raises(StoreError, match=r"^/state[^\n]*; (free|the disk)"), explained("/state"):
            raise raised


def test_other_errors_keep_their_own_words() -> None:
    for error in (RuntimeError("shapes differ"), OSError(errno.EBADF, "x"), UserError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, explained("/state"):
            raise error
        assert caught.value is error
