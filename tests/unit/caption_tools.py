"""What tests of captions share: a part with real clips, a server that misbehaves on demand, a tiny vision language model."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from mugv.curation.rows import ClipRow, write_rows
from mugv.curation.shard import write_tar
from mugv.media.encode import write_video

PARTS = {
    "subject": "A red circle that crosses a grey floor",
    "appearance": "It is round and bright",
    "motion": "It moves from left to right",
    "camera": "The camera is still",
    "background": "The background is plain",
}
WORDS = "This video shows a red circle that crosses a grey floor. It is round and bright. It moves from left to right. "
WORDS += "The camera is still. The background is plain."
TAGS = {"subjects": ["circles"], "actions": ["moves"], "scenes": []}


def write_part(folder: Path, count: int = 3, frames: int = 5, **of_row: Any) -> Path:
    """A part of `count` kept clips and one rejected row; clip k is a grey that grows with k and with time."""
    folder.mkdir(parents=True)
    rows, members = [], []
    for k in range(count):
        row = replace(ClipRow(f"clip-{k}", "a.mp4", "d", start_frame=k, status="kept", frames=frames, fps=12.0), **of_row)
        pixels = np.stack([np.full((48, 64, 3), min(255, 20 * k + 10 * t + 20), np.uint8) for t in range(frames)])
        buffer = io.BytesIO()
        write_video(buffer, pixels, 12.0)
        rows.append(row)
        members.append((f"{row.clip_id}.mp4", buffer.getvalue()))
    rows.append(ClipRow("clip-lost", "a.mp4", "d", reason="blurred"))
    write_rows(folder / "part.parquet", rows)
    write_tar(folder / "clips-0.tar", members)
    return folder


def completion(content: str, finish: str = "stop", refusal: str | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def good(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """What a well server answers: parts, tags or a plain caption, as the request asks."""
    wanted = request.get("response_format", {}).get("json_schema", {}).get("name", "")
    content = {"caption": json.dumps(PARTS), "tags": json.dumps(TAGS)}.get(wanted, "A red circle moves over the floor.")
    return 200, {}, json.dumps(completion(content)).encode()


Reply = Callable[[dict[str, Any]], "tuple[int, dict[str, str], bytes] | None"]


class Server(ThreadingHTTPServer):
    """Plays `script` from its start, request by request, then answers as `good` does. A reply of None drops the connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: list[Reply] | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.script = list(script or [])
        self.always: Reply = good
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.drip: threading.Event | None = None
        """Set: a space every 20 ms instead of an answer, until the event."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append(request)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            reply = self.server.script.pop(0) if self.server.script else self.server.always
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        try:
            self._answer(reply(request))
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def _answer(self, found: tuple[int, dict[str, str], bytes] | None) -> None:
        if found is None:
            self.close_connection = True
            return
        status, headers, body = found
        if self.server.drip:
            return self._drip(self.server.drip)
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, ended: threading.Event) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not ended.wait(0.02):
            self.wfile.write(b" ")

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextmanager
def serving(script: list[Reply] | None = None, port: int = 0) -> Iterator[Server]:
    server = Server(script, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def status(code: int, **headers: str) -> Reply:
    body = json.dumps({"error": {"message": f"status {code} on purpose"}}).encode()
    return lambda _: (code, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def says(content: str, **of_completion: Any) -> Reply:
    return lambda _: (200, {}, json.dumps(completion(content, **of_completion)).encode())


def raw(body: bytes, content_type: str = "application/json") -> Reply:
    return lambda _: (200, {"content-type": content_type}, body)
