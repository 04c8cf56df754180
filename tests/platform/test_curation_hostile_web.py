"""What a web server may do, against raw sockets on loopback: each costs its own source, in bounded time and space, and no more."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from mugv.curation import web, web_connections
from mugv.curation.download import Lost
from mugv.curation.fetch import Away, fetched
from mugv.curation.sources import SourceFile
from mugv.recipe.fetch import Fetch

Script = Callable[[socket.socket, str], None]
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
SHORT = Fetch(stalled_seconds=1.0, maximum_seconds=30.0, maximum_gigabytes=0.01)


class Raw(socketserver.ThreadingTCPServer):
    """Each request's path names the script that answers it."""

    daemon_threads = True

    def __init__(self, **scripts: Script | bytes) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.scripts = scripts
        self.heads: list[str] = []

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what some tests are about."""

    def uri(self, name: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_address[1]}/{name}"


class Connection(socketserver.BaseRequestHandler):
    server: Raw

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            got = self.request.recv(65536)
            if not got:
                return
            head += got
        self.server.heads.append(head.decode("latin-1"))
        script = self.server.scripts[head.split()[1].decode().strip("/").partition("?")[0]]
        if isinstance(script, bytes):
            self.request.sendall(script)
            return
        try:
            script(self.request, self.server.heads[-1])
        except OSError:
            return


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Raw]]:
    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.01)
    servers: list[Raw] = []

    def start(**scripts: Script | bytes) -> Raw:
        servers.append(Raw(**scripts))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(tmp_path: Path, *uris: str, limits: Fetch = SHORT, **facts: Any) -> list[bytes | Lost | Away]:
    sources = [SourceFile(uri, "", facts.get("bytes", 0), (), uri=uri, etag=facts.get("etag", "")) for uri in uris]
    got = {
        source.uri: path.read_bytes() if isinstance(path, Path) else path
        for source, path in fetched(sources, None, tmp_path / "fetch", limits)
    }
    assert not list((tmp_path / "fetch").glob("*"))
    return [got[uri] for uri in uris]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (b"Content-Length: abc\r\n", "Content-Length is no number: 'abc'"),
        (b"Content-Length: -5\r\n", "Content-Length is no number: '-5'"),
        (b"Content-Length: 1_0\r\n", "Content-Length is no number: '1_0'"),
        (b"Content-Length: 99999999999999999999999\r\n", "Content-Length is no number"),
        (b"Content-Length: 7\r\nContent-Length: 8\r\n", ""),
        (b"Content-Encoding: gzip\r\n", "the server sends it as 'gzip'"),
        (b"Transfer-Encoding: chunked\r\nX: zz\r\n", ""),
        (b"Content-Length : 7\r\n", None),
        (b"ETag: " + b"x" * 100_000 + b"\r\n", ""),
        (b"".join(b"X%d: y\r\n" % k for k in range(200)), ""),
        (b"Content-Length: 7\r\nContent-Range: bytes 5-9/3\r\n", None),
        (b"\xff\xfe: \x00\r\n", None),
    ],
)
def test_an_odd_header_costs_its_source_alone(raw: Any, tmp_path: Path, headers: bytes, said: str | None) -> None:
    """`said`: None, the file may be taken all the same."""
    server = raw(odd=OK + headers + b"\r\npicture", good=OK + b"Content-Length: 7\r\n\r\npicture")
    odd, good = fetch(tmp_path, server.uri("odd"), server.uri("good", "localhost"))
    assert good == b"picture"
    if said is None and isinstance(odd, bytes):
        assert odd == b"picture"
    else:
        assert isinstance(odd, Lost | Away)
        assert (said or "") in odd.detail


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConte",
        b"\x16\x03\x01 no HTTP at all",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\npicture\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\npicture\r\n",
        OK + b"Content-Length: 70\r\n\r\npicture",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 3-9/10\r\nContent-Length: 7\r\n\r\npicture",
        b"HTTP/1.1 206 Partial\r\nContent-Range: none\r\n\r\npicture",
        b"HTTP/1.1 206 Partial\r\n\r\npicture",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 70 + b".b/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://x:port/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: //\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ftp://h/x\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: odd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\n\r\n",
    ],
)
def test_an_answer_that_is_none_costs_its_source_alone(raw: Any, tmp_path: Path, answer: bytes) -> None:
    server = raw(odd=answer, good=OK + b"Content-Length: 7\r\n\r\npicture")
    server.scripts["\xff\xfe"] = server.scripts["ÿþ"] = server.scripts["%FF%FE"] = answer
    server.scripts["%C3%BF%C3%BE"] = answer
    odd, good = fetch(tmp_path, server.uri("odd"), server.uri("good", "localhost"))
    assert good == b"picture"
    assert isinstance(odd, Lost | Away)
    assert odd.detail


def test_a_partial_answer_nobody_asked_for_is_completed(raw: Any, tmp_path: Path) -> None:
    def parts(connection: socket.socket, head: str) -> None:
        start = int(head.partition("Range: bytes=")[2].partition("-")[0] or 0)
        data = b"a picture in parts"[start : start + 5]
        said = f'HTTP/1.1 206 P\r\nETag: "v"\r\nContent-Length: {len(data)}\r\nContent-Range: bytes {start}-{start + len(data) - 1}/18\r\n'
        connection.sendall(said.encode() + b"Connection: close\r\n\r\n" + data)

    assert fetch(tmp_path, raw(parts=parts).uri("parts")) == [b"a picture in parts"]


def endless(connection: socket.socket, _: str) -> None:
    connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def dripping(connection: socket.socket, _: str) -> None:
    connection.sendall(OK + b"\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def dripping_headers(connection: socket.socket, _: str) -> None:
    connection.sendall(OK)
    while True:
        connection.sendall(b"X")
        time.sleep(0.05)


def silent(connection: socket.socket, _: str) -> None:
    connection.recv(1)


def test_an_endless_answer_ends_at_the_limit_of_size(raw: Any, tmp_path: Path) -> None:
    (got,) = fetch(tmp_path, raw(endless=endless).uri("endless"))
    assert got == Lost("unreadable", "larger than 0.01 GB (data.fetch.maximum_gigabytes)")


def test_the_list_s_bytes_are_a_cap_whatever_the_server_says(raw: Any, tmp_path: Path) -> None:
    limits = Fetch(maximum_gigabytes=1000.0)
    (got,) = fetch(tmp_path, raw(endless=endless).uri("endless"), bytes=100_000, limits=limits)
    assert got == Lost("unreadable", "changed since it was listed (100000 bytes, now more)")


@pytest.mark.parametrize("script", [dripping, dripping_headers, silent])
def test_a_server_that_drips_or_is_silent_is_away_soon_and_the_others_do_not_wait(raw: Any, tmp_path: Path, script: Script) -> None:
    server, began = raw(slow=script, good=OK + b"Content-Length: 7\r\n\r\npicture"), time.monotonic()
    sources = [SourceFile(u, "", 0, (), uri=u) for u in (server.uri("slow"), server.uri("slow?2"), server.uri("good", "localhost"))]
    seconds, got = {}, {}
    for source, found in fetched(sources, None, tmp_path / "fetch", SHORT):
        seconds[source.uri], got[source.uri] = time.monotonic() - began, found
    assert next(iter(got)) == sources[2].uri
    assert isinstance(away := got[sources[0].uri], Away)
    assert "less than 1,000 bytes a second for 1 s" in away.detail
    assert got[sources[1].uri] == away
    assert seconds[sources[1].uri] < 8
    assert len(server.heads) == 2


def test_a_server_that_is_just_fast_enough_ends_at_the_limit_of_time(raw: Any, tmp_path: Path) -> None:
    def slow(connection: socket.socket, _: str) -> None:
        connection.sendall(OK + b"\r\n")
        while True:
            connection.sendall(bytes(2000))
            time.sleep(0.05)

    (got,) = fetch(tmp_path, raw(slow=slow).uri("slow"), limits=Fetch(stalled_seconds=0.5, maximum_seconds=1.0))
    assert got == Lost("unreadable", "not there after 1 s (data.fetch.maximum_seconds)")


def test_a_run_that_is_stopped_does_not_wait_for_a_silent_server(raw: Any, tmp_path: Path) -> None:
    server, began = raw(slow=silent, good=OK + b"Content-Length: 7\r\n\r\npicture"), time.monotonic()
    sources = [SourceFile(u, "", 0, (), uri=u) for u in (server.uri("slow"), server.uri("good", "localhost"))]
    files = fetched(sources, None, tmp_path / "fetch", Fetch())
    assert next(files)[0] == sources[1]
    files.close()
    assert time.monotonic() - began < 5


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def test_redirects_are_followed_so_many_times(raw: Any, tmp_path: Path) -> None:
    server = raw(a=redirect("/b"), b=redirect("c?x=1"), c=OK + b"\r\npicture", round=redirect("/round"))
    assert fetch(tmp_path, server.uri("a")) == [b"picture"]
    (got,) = fetch(tmp_path, server.uri("round"))
    assert got == Lost("unreadable", "more than 5 redirects")
    assert sum("/round" in head for head in server.heads) == 6


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.2 stands for a server of the internet, 127.0.0.1 is what it is."""
    real = web_connections.scope_of
    monkeypatch.setattr(web, "scope_of", lambda host: web_connections.FAR if host == "127.0.0.2" else real(host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "127.1", "LOCALHOST."])
def test_a_public_server_s_redirect_to_this_machine_is_refused(raw: Any, tmp_path: Path, public: None, host: str) -> None:
    server = raw(secret=OK + b"\r\nsecret")
    server.scripts["a"] = redirect(server.uri("secret", host))
    outside = raw_on(server, "127.0.0.2")
    (got,) = fetch(tmp_path, f"http://127.0.0.2:{outside.server_address[1]}/a")
    assert isinstance(got, Lost)
    assert "an address of a private network that the list does not name" in got.detail
    assert not any("/secret" in head for head in server.heads)
    outside.shutdown()


def test_a_host_that_the_list_names_may_be_redirected_to(raw: Any, tmp_path: Path, public: None) -> None:
    server = raw(inside=OK + b"\r\ninside")
    server.scripts["a"] = redirect(server.uri("inside", "localhost"))
    outside = raw_on(server, "127.0.0.2")
    got = fetch(tmp_path, f"http://127.0.0.2:{outside.server_address[1]}/a", server.uri("inside", "localhost"))
    assert got == [b"inside", b"inside"]
    outside.shutdown()


def raw_on(other: Raw, host: str) -> Raw:
    class There(Raw):
        def __init__(self) -> None:
            socketserver.ThreadingTCPServer.__init__(self, (host, 0), Connection)
            self.scripts, self.heads = other.scripts, other.heads

    server = There()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("93.184.216.34", 0),
        ("2606:4700::1", 0),
        ("10.1.2.3", 1),
        ("fd00::1", 1),
        ("100.64.0.1", 1),
        ("224.0.0.1", 1),
        ("127.0.0.1", 2),
        ("::1", 2),
        ("::", 2),
        ("0.0.0.0", 2),
        ("::ffff:127.0.0.1", 2),
        ("2002:7f00:1::", 2),
        ("localhost", 2),
        ("x.localhost", 2),
        ("169.254.169.254", 3),
        ("fe80::1%eth0", 3),
        ("::ffff:169.254.169.254", 3),
        ("example.org", None),
    ],
)
def test_how_near_an_address_is(host: str, scope: int | None) -> None:
    assert web_connections.scope_of(host) == scope


def test_retry_after_is_waited_for_within_bounds(raw: Any, tmp_path: Path) -> None:
    times: list[float] = []

    def busy(connection: socket.socket, _: str) -> None:
        times.append(time.monotonic())
        first = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        connection.sendall(first if len(times) == 1 else OK + b"\r\npicture")

    assert fetch(tmp_path, raw(busy=busy).uri("busy"), limits=Fetch()) == [b"picture"]
    assert 1 <= times[1] - times[0] < 8


@pytest.mark.parametrize("said", ["3600", "1e999", "later", format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)])
def test_a_server_that_wants_to_be_left_alone_for_long_is_left_alone(raw: Any, tmp_path: Path, said: str) -> None:
    server = raw(busy=f"HTTP/1.1 429 Busy\r\nRetry-After: {said}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    (got,) = fetch(tmp_path, server.uri("busy"), limits=Fetch())
    assert isinstance(got, Away)
    assert len(server.heads) == (6 if said == "later" else 1)
    assert ("get failed 6 times" if said == "later" else "to come back in") in got.detail


@pytest.mark.parametrize(("etag", "joined"), [('"v1"', True), ('W/"v1"', False)])
def test_a_download_goes_on_only_where_range_and_version_match(raw: Any, tmp_path: Path, etag: str, joined: bool) -> None:
    data = b"abcdefghij"

    def breaking(connection: socket.socket, head: str) -> None:
        said = f"ETag: {etag}\r\n"
        if "Range: bytes=4-" in head:
            assert 'If-Range: "v1"' in head
            said += f"Content-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n{data[4:].decode()}"
            connection.sendall(b"HTTP/1.1 206 P\r\nConnection: close\r\n" + said.encode())
        else:
            part = data if len(server.heads) > 1 else data[:4]
            connection.sendall(OK + f"{said}Content-Length: 10\r\n\r\n".encode() + part)

    server = raw(a=breaking)
    assert fetch(tmp_path, server.uri("a")) == [data]
    assert ["Range:" in head for head in server.heads] == [False, joined]


def test_another_file_behind_the_same_size_is_never_joined(raw: Any, tmp_path: Path) -> None:
    def breaking(connection: socket.socket, head: str) -> None:
        if "Range: bytes=4-" in head:
            connection.sendall(b"HTTP/1.1 206 P\r\nLast-Modified: B\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\nEFGHIJ")
        else:
            connection.sendall(OK + b"Last-Modified: A\r\nContent-Length: 10\r\n\r\nabcd")

    (got,) = fetch(tmp_path, raw(a=breaking).uri("a"))
    assert got == Lost("unreadable", "changed since it was listed (another file came after the connection broke)")
