"""The S3 store and a server, a proxy or a stranger that answers wrongly: nothing wrong is published, given out or written outside."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from odd_s3 import Answer, OddS3, odd_server

from mugv.errors import StoreError, UserError
from mugv.store import open_store
from mugv.store.base import Ref, Store


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OddS3]:
    with odd_server(monkeypatch) as server:
        yield server


@pytest.fixture
def store(server: OddS3, tmp_path: Path) -> Store:
    return open_store("s3://bucket/team", tmp_path / "cache")


def write_output(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "sub" / "b.txt").write_text("b")
    return folder


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Ref:
    return store.publish(write_output(tmp_path / "out"), "vae/k1", "k1")


class Times:
    """Replaces the first `count` answers to a method and the end of a name."""

    def __init__(self, count: int, method: str, end: str, answer: Answer | None = None, cut: int = 0) -> None:
        self.left, self.method, self.end, self.answer, self.cut = count, method, end, answer, cut

    def __call__(self, method: str, name: str, right: Answer) -> Answer:
        if self.left and method == self.method and name.endswith(self.end):
            self.left -= 1
            status, headers, body = right
            return self.answer or (status, {**headers, "Content-Length": str(len(body))}, body[: self.cut])
        return right


LOGIN = (200, {"Content-Type": "text/html"}, b"<html><body>Please log in</body></html>")


def test_upload_of_which_the_server_keeps_half_is_sent_again(server: OddS3, store: Store, tmp_path: Path) -> None:
    halves = iter([True])
    server.store = lambda name, body: body[: len(body) // 2] if name.endswith("a.bin") and next(halves, False) else body
    ref = store.publish(write_output(tmp_path / "out"), "vae/k1", "k1")
    assert (store.fetch(ref) / "a.bin").read_bytes() == bytes(range(256)) * 40


@pytest.mark.parametrize(
    ("kept", "words"), [(lambda b: b[: len(b) // 2], r"has 5120 of the 10240 bytes"), (lambda b: b[::-1], "another content")]
)
def test_upload_that_always_arrives_wrong_is_not_published(server: OddS3, store: Store, tmp_path: Path, kept: object, words: str) -> None:
    server.store = lambda name, body: kept(body) if name.endswith("a.bin") else body  # type: ignore[operator]
    with pytest.raises(StoreError, match=rf"put vae/k1/a\.bin failed 6 times .*{words}"):
        store.publish(write_output(tmp_path / "out"), "vae/k1", "k1")
    assert store.find("vae/k1") is None


def test_server_whose_etags_are_no_md5_is_asked_once_for_an_object(server: OddS3, store: Store, tmp_path: Path) -> None:
    server.etag = lambda body: hashlib.sha256(body).hexdigest()[:32]
    store.publish(write_output(tmp_path / "out"), "vae/k1", "k1")
    store.publish(write_output(tmp_path / "out2"), "vae/k2", "k2")
    assert 1 <= sum(method == "GET" for method, _ in server.asked) <= 4


@pytest.mark.parametrize(
    "odd", [Times(2, "GET", "manifest.json", LOGIN), Times(2, "GET", "manifest.json", cut=50), Times(2, "GET", "a.bin", cut=9)]
)
def test_cut_answers_and_login_pages_are_asked_again(server: OddS3, store: Store, published: Ref, odd: Times) -> None:
    server.odd = odd
    assert store.find("vae/k1") == published
    assert (store.fetch(published) / "a.bin").stat().st_size == 10240
    assert odd.left == 0


def test_content_that_a_proxy_changed_is_asked_again(server: OddS3, store: Store, published: Ref) -> None:
    server.odd = Times(2, "GET", "a.bin", (200, {"ETag": '"x"'}, b"wrong"))
    assert (store.fetch(published) / "a.bin").stat().st_size == 10240


def test_damaged_object_names_what_must_go_from_the_bucket(server: OddS3, store: Store, published: Ref, tmp_path: Path) -> None:
    server.objects["team/vae/k1/a.bin"] = b"x" * 10240
    with pytest.raises(
        StoreError, match=r"s3://bucket/team/vae/k1/a\.bin: damaged .*; remove s3://bucket/team/vae/k1 from the bucket"
    ) as caught:
        store.fetch(published)
    assert str(tmp_path) not in str(caught.value)


def test_login_page_that_stays_does_not_advise_to_remove_an_output_at_once(server: OddS3, store: Store, published: Ref) -> None:
    server.odd = Times(99, "GET", "manifest.json", LOGIN)
    with pytest.raises(StoreError, match=r"begins with '<html>.*check that the endpoint is the object store itself; if it is, remove"):
        store.find("vae/k1")


DAMAGED = [
    b"",
    b"[]",
    b"{",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"key": "k1", "digest": "d", "files": []}',
    b'{"key": "k1", "digest": "d", "files": {"a": {"sha257": "0", "bytes": 1}}}',
    b'{"key": 1, "digest": null, "files": {}}',
    b'{"key": "k1", "digest": "d", "files": {"a": 5}}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_manifest_in_the_bucket_is_one_line(server: OddS3, store: Store, published: Ref, text: bytes) -> None:
    server.objects["team/vae/k1/manifest.json"] = text
    for action in (lambda: store.find("vae/k1"), lambda: store.fetch(published)):
        with pytest.raises(StoreError, match="not the manifest of an output") as caught:
            action()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/tmp/ABS.txt", "../up.txt", "a/../../up.txt", "a\\..\\b", "", "a//b", "./a", "a\0b"])
def test_manifest_cannot_write_outside_of_its_folder(server: OddS3, store: Store, name: str, tmp_path: Path) -> None:
    sha = hashlib.sha256(b"x").hexdigest()
    digest = hashlib.sha256(f"{name} {sha}\n".encode()).hexdigest()
    tree = {"key": "k9", "digest": digest, "files": {name: {"sha256": sha, "bytes": 1}}}
    server.objects["team/vae/k9/manifest.json"] = json.dumps(tree).encode()
    server.objects[f"team/vae/k9/{name}"] = b"x"
    with pytest.raises(StoreError, match="not a relative path inside the output"):
        store.fetch(Ref("s3://bucket/team/vae/k9", "k9", digest))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("harm", ["flipped", "deleted", "manifest"])
def test_damaged_cache_is_fetched_again(store: Store, published: Ref, harm: str) -> None:
    folder = store.fetch(published)
    if harm == "flipped":
        (folder / "a.bin").write_bytes(b"y" * 10240)
    else:
        (folder / ("a.bin" if harm == "deleted" else "manifest.json")).unlink()
    again = store.fetch(published)
    assert (again / "a.bin").read_bytes() == bytes(range(256)) * 40
    assert [p.name for p in again.parent.iterdir() if not p.name.startswith(".")] == [published.digest]


@pytest.mark.parametrize(
    "odd",
    [
        Times(999, "GET", "", (200, {}, b"[]")),
        Times(999, "GET", "", (200, {"Content-Type": "application/xml"}, b"<a/>")),
        Times(999, "GET", "", (200, {}, b"")),
        Times(999, "HEAD", "", (200, {"Last-Modified": "yesterday", "ETag": '"x"'}, b"")),
        Times(999, "HEAD", "", (200, {}, b"")),
        Times(999, "PUT", "", (200, {}, b"<html>")),
        Times(999, "GET", "", (302, {"Location": "http://127.0.0.1:9/"}, b"")),
        Times(999, "GET", "", (500, {}, b"<Error><Code>")),
    ],
)
def test_no_answer_of_a_server_is_a_traceback(server: OddS3, store: Store, published: Ref, tmp_path: Path, odd: Times) -> None:
    server.odd = odd
    (tmp_path / "f").write_text("f")
    for action in (
        lambda: store.list("vae"),
        lambda: store.find("vae/k1"),
        lambda: store.fetch(published),
        lambda: store.put_file(tmp_path / "f", "f"),
        lambda: store.get_file("vae/k1/a.bin", tmp_path / "g"),
    ):
        with suppress(StoreError):
            action()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("http://user:hunter2@host:9000", "must not hold a user or a password"),
        ("user:hunter2@host", "must not hold a user or a password"),
        ("http://host:99999", "is not an address"),
        ("http://[::1", "is not an address"),
        ("ftp://host", "not the address of a server alone"),
        ("http://host/path", "not the address of a server alone"),
    ],
)
def test_endpoint_that_is_no_server_is_one_line_that_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, words: str
) -> None:
    monkeypatch.setenv("MUGV_S3_ENDPOINT", given)
    monkeypatch.setenv("MUGV_S3_ACCESS_KEY", "a")
    monkeypatch.setenv("MUGV_S3_SECRET_KEY", "b")
    with pytest.raises(UserError, match=rf"store s3://bucket/x: MUGV_S3_ENDPOINT .*{words}") as caught:
        open_store("s3://bucket/x", tmp_path)
    assert "hunter2" not in str(caught.value)


def test_name_that_no_bucket_has_is_one_line(server: OddS3, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"store s3://B!/x: .*expected s3://bucket/prefix"):
        open_store("s3://B!/x", tmp_path)
