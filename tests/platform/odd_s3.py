"""A tiny S3 server on loopback that keeps objects in memory and answers wrongly where a test says so."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class OddS3:
    """`odd(method, name, answer)` may replace an answer; `store(name, body)` what is kept of an upload."""

    objects: dict[str, bytes] = field(default_factory=dict)
    odd: Callable[[str, str, Answer], Answer] = lambda method, name, answer: answer
    store: Callable[[str, bytes], bytes] = lambda name, body: body
    etag: Callable[[bytes], str] = lambda body: hashlib.md5(body, usedforsecurity=False).hexdigest()
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        url = urlsplit(target)
        name = unquote(url.path).removeprefix("/bucket").lstrip("/")
        self.asked.append((method, name))
        return self.odd(method, name, self._right(method, name, parse_qs(url.query), body))

    def _right(self, method: str, name: str, query: dict[str, list[str]], body: bytes) -> Answer:
        if method == "GET" and not name:
            return 200, {"Content-Type": "application/xml"}, self._listing(query.get("prefix", [""])[0])
        if method == "PUT":
            self.objects[name] = self.store(name, body)
            return 200, {"ETag": f'"{self.etag(self.objects[name])}"'}, b""
        if method == "DELETE":
            self.objects.pop(name, None)
            return 204, {}, b""
        if name not in self.objects:
            return 404, {}, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
        found = self.objects[name]
        return 200, {"ETag": f'"{self.etag(found)}"', "Last-Modified": formatdate(0, usegmt=True)}, found

    def _listing(self, prefix: str) -> bytes:
        rows = "".join(
            f"<Contents><Key>{escape(n)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag>"
            f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for n, body in sorted(self.objects.items())
            if n.startswith(prefix)
        )
        start = (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix/><IsTruncated>false</IsTruncated>'
        )
        return f"{start}{rows}</ListBucketResult>".encode()


@contextmanager
def odd_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OddS3]:
    """The server, running; the environment names it and its keys, and pauses between tries are short."""
    server = OddS3()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *parts: object) -> None:
            """Quiet."""

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = server.answer(self.command, self.path, body)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD" and status != 204:
                self.wfile.write(content)
            if headers.get("Content-Length", str(len(content))) != str(len(content)):
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = reply

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.port = http.server_port
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("MUGV_S3_ENDPOINT", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("MUGV_S3_ACCESS_KEY", "access")
    monkeypatch.setenv("MUGV_S3_SECRET_KEY", "secret")
    monkeypatch.setattr("mugv.store.s3_client.FIRST_WAIT_SECONDS", 0.002)
    yield server
    http.shutdown()
    http.server_close()
