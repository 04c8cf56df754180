"""Sources on the web, against a real HTTP server on loopback: fetched, lost, waited for, and never mixed with what came before."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "unit"))

from footage_tools import context, encode, recipe_for, shot  # noqa: E402

from mugv.curation.download import Lost  # noqa: E402
from mugv.curation.fetch import Away, fetched  # noqa: E402
from mugv.curation.rows import read_rows  # noqa: E402
from mugv.curation.sources import SourceFile  # noqa: E402
from mugv.curation.sources_read import read_sources  # noqa: E402
from mugv.errors import StoreError  # noqa: E402
from mugv.stages import curate_shard, scan  # noqa: E402

BIG = os.urandom(3 << 20)


class Web(ThreadingHTTPServer):
    """Serves `files`. A path's `statuses` are answered first, one a request; `breaks` ends so many answers after 1 MB."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, list[int]] = {}
        self.breaks, self.ranges = 0, True
        self.etags: list[str] = []
        self.modified = "Sat, 28 Nov 2026 12:00:00 GMT"
        self.asked: list[tuple[str, str]] = []
        """Path and Range of every request."""
        self.whole: list[str] = []

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what some tests are about."""

    def uri(self, path: str, data: bytes | None = None) -> str:
        if data is not None:
            self.files[path] = data
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        path, asked = self.path.partition("?")[0], self.headers.get("Range", "")
        self.server.asked.append((path, asked))
        self.server.whole.append(self.path)
        statuses = self.server.statuses.get(path)
        if statuses:
            return self.answer(statuses.pop(0), b"no")
        data = self.server.files[path]
        if not asked or not self.server.ranges:
            return self.answer(200, data)
        offset = int(asked.removeprefix("bytes=").rstrip("-"))
        if offset >= len(data):
            return self.answer(416, b"")
        return self.answer(206, data[offset:], f"bytes {offset}-{len(data) - 1}/{len(data)}")

    def answer(self, status: int, data: bytes, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if part:
            self.send_header("Content-Range", part)
        if self.server.etags:
            self.send_header("ETag", f'"{self.server.etags.pop(0)}"')
        if self.server.modified:
            self.send_header("Last-Modified", self.server.modified)
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(data[: 1 << 20])
            self.close_connection = True
            return
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.01)
    with Web() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetch(tmp_path: Path, *uris: str, **facts: Any) -> list[bytes | Lost | Away]:
    sources = [SourceFile(uri, "", facts.get("bytes", 0), (), uri=uri, etag=facts.get("etag", "")) for uri in uris]
    got = [path.read_bytes() if isinstance(path, Path) else path for _, path in fetched(sources, None, tmp_path / "fetch")]
    assert not list((tmp_path / "fetch").glob("*"))
    return got


def shard(tmp_path: Path, *uris: str) -> Any:
    """Scan of a list, then the context of its one shard, ready to run."""
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": list(uris), "name": [f"n{k}" for k in range(len(uris))]}), path)
    recipe = recipe_for(tmp_path, f"data.videos={path}", "data.shards=1", require_caption=False)
    scanned = context(tmp_path, "scan", recipe)
    scan.run(scanned)
    return context(tmp_path, "curate_shard-0", recipe, {"scan": scanned.out})


def video(tmp_path: Path, *numbers: int) -> bytes:
    return encode(tmp_path / "made.mp4", np.concatenate([shot(k) for k in numbers])).read_bytes()


def test_a_list_of_web_addresses_gives_the_clips_of_the_files(web: Web, tmp_path: Path) -> None:
    local = tmp_path / "local.mp4"
    local.write_bytes(video(tmp_path, 1, 2))
    uri = web.uri("/a b/one.mp4", local.read_bytes()).replace(" ", "%20") + "?token=1"
    web.files["/a%20b/one.mp4"] = web.files["/a b/one.mp4"]
    ctx = shard(tmp_path, uri, str(local))
    curate_shard.run(ctx)
    rows = read_rows(ctx.out / "part.parquet")
    clips = {name: [(r.start_frame, r.status, r.hash) for r in rows if r.source == name] for name in ("n0", "n1")}
    assert clips["n0"] == clips["n1"]
    assert any(status == "kept" for _, status, _ in clips["n0"])


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without"])
def test_a_connection_that_breaks_gives_the_whole_file_all_the_same(web: Web, tmp_path: Path, ranges: bool) -> None:
    web.breaks, web.ranges = 2, ranges
    assert fetch(tmp_path, web.uri("/a.mp4", BIG)) == [BIG]
    starts = [asked for _, asked in web.asked]
    assert starts == ["", "bytes=1048576-", "bytes=2097152-" if ranges else "bytes=1048576-"]


def test_without_a_version_nothing_is_joined_to_what_came_before(web: Web, tmp_path: Path) -> None:
    web.breaks, web.modified = 1, ""
    assert fetch(tmp_path, web.uri("/a.mp4", BIG)) == [BIG]
    assert [asked for _, asked in web.asked] == ["", ""]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([404], Lost("vanished", "the server answers 404 Not Found")),
        ([410], Lost("vanished", "the server answers 410 Gone")),
        ([403], Lost("unreadable", "the server answers 403 Forbidden")),
        ([503, 429, 500], b"picture"),
    ],
)
def test_an_answer_that_stays_is_a_reason_and_one_that_passes_is_waited_for(
    web: Web, tmp_path: Path, statuses: list[int], expected: bytes | Lost
) -> None:
    uri = web.uri("/a.mp4", b"picture")
    web.statuses["/a.mp4"] = list(statuses)
    assert fetch(tmp_path, uri) == [expected]
    assert len(web.asked) == (1 if isinstance(expected, Lost) else 4)


def test_another_file_in_the_middle_or_of_another_size_is_never_joined(web: Web, tmp_path: Path) -> None:
    uri = web.uri("/a.mp4", BIG)
    web.breaks, web.etags = 1, ["one", "two"]
    assert fetch(tmp_path, uri) == [Lost("unreadable", "changed since it was listed (etag one, now two)")]
    assert fetch(tmp_path, uri, bytes=7) == [Lost("unreadable", f"changed since it was listed (7 bytes, now {len(BIG)})")]
    assert fetch(tmp_path, uri, bytes=len(BIG), etag="one") == [BIG]


def test_a_host_that_stays_away_holds_back_its_own_sources_alone(web: Web, tmp_path: Path) -> None:
    with Web() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        data = [video(tmp_path, k) for k in (1, 2, 3)]
        uris = [other.uri("/x.mp4", data[0]), other.uri("/y.mp4", data[1]), web.uri("/z.mp4", data[2])]
        other.statuses = {"/x.mp4": [503] * 6}
        ctx = shard(tmp_path, *uris)
        with pytest.raises(
            StoreError, match=r"^2 of 3 sources cannot be had now, the others are done; the first: .*x\.mp4: get failed 6 times"
        ):
            curate_shard.run(ctx)
        assert [path for path, _ in other.asked] == ["/x.mp4"] * 6
        result = curate_shard.run(ctx)
        other.shutdown()
    assert (result["sources"], result["sources_before"], result["kept"]) == (3, 1, 3)
    assert [path for path, _ in web.asked] == ["/z.mp4"]


@pytest.mark.parametrize(("number", "kind"), [(socket.EAI_NONAME, Lost), (socket.EAI_AGAIN, Away)])
def test_a_name_that_does_not_exist_is_lost_and_a_name_server_that_is_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type
) -> None:
    """Both answers of the resolver are made here: what the network of the machine says of a strange name is not ours to know."""

    def answered(*_: Any, **__: Any) -> None:
        raise socket.gaierror(number, "said the name server")

    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", answered)
    (got,) = fetch(tmp_path, "https://nobody.invalid/a.mp4")
    assert isinstance(got, kind)
    assert "nobody.invalid" in got.detail


def test_what_identifies_a_web_source_is_its_address_with_what_the_list_says(web: Web, tmp_path: Path) -> None:
    def digests(**columns: list[Any]) -> list[str]:
        pq.write_table(pa.table({"uri": ["https://a/x.mp4", "https://b/x.mp4"], **columns}), tmp_path / "list.parquet")
        return [source.digest for source in read_sources(tmp_path / "list.parquet")]

    sets = [digests(), digests(etag=["1", "1"]), digests(etag=["1", "1"], bytes=[5, 5])]
    assert len({digest for some in sets for digest in some}) == 6
    assert web.asked == []


def test_a_signed_address_opens_the_file_and_is_written_nowhere(web: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = video(tmp_path, 1, 2)
    host = web.uri("/a.mp4", data).replace("http://", "").partition("/")[0]
    web.files["/gone.mp4"] = data
    web.statuses["/gone.mp4"] = [403]
    web.statuses["/z.mp4"] = [503] * 6
    tail = "?X-Amz-Date=1&X-Amz-Signature=SECRETSIG"
    uris = [f"http://user:SECRETPW@{host}/{name}.mp4{tail}" for name in ("a", "gone", "z")]
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": uris}), path)
    recipe = recipe_for(tmp_path, f"data.videos={path}", "data.shards=1", require_caption=False)
    scanned = context(tmp_path, "scan", recipe)
    scan.run(scanned)
    # Signed anew while the table of the scan lies in the store.
    pq.write_table(pa.table({"uri": [uri.replace("Date=1", "Date=2") for uri in uris[::-1]]}), path)
    ctx = context(tmp_path, "curate_shard-0", recipe, {"scan": scanned.out})
    with pytest.raises(StoreError, match=rf"1 of 3 sources cannot be had now.*source http://{host}/z\.mp4: get failed 6 times") as error:
        curate_shard.run(ctx)
    assert "SECRET" not in str(error.value)
    web.files["/z.mp4"] = data
    curate_shard.run(ctx)
    rows = read_rows(ctx.out / "part.parquet")
    assert {r.source for r in rows if r.status == "kept"} == {f"http://{host}/a.mp4", f"http://{host}/z.mp4"}
    assert [r.detail for r in rows if r.source.endswith("gone.mp4")] == ["the server answers 403 Forbidden"]
    assert all("Date=2" in whole for whole in web.whole)
    written = [file for file in tmp_path.rglob("*") if file.is_file() and file != path]
    assert not [file for file in written if b"SECRET" in file.read_bytes()]
    assert "SECRET" not in "".join(capfd.readouterr())
