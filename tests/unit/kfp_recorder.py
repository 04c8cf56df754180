"""A server on loopback that answers the few KFP REST calls a client makes and keeps what it was sent. It runs nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API = "/apis/v2beta1"
ANSWERS: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "healthz"): {"multi_user": False},
    ("GET", "experiments"): {"experiments": []},
    ("POST", "experiments"): {"experiment_id": "e-1", "display_name": "mugv"},
    ("POST", "runs"): {"run_id": "r-1", "display_name": "run"},
    ("POST", "recurringruns"): {"recurring_run_id": "j-1", "display_name": "job"},
}


class Recorder:
    """What arrived, in order: (method, resource, body)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self.refuse = 0
        """HTTP status given to every POST; 0: answer normally."""
        self.url = ""

    def body(self, resource: str) -> dict[str, Any]:
        """Body of the one POST to a resource."""
        (found,) = [body for method, name, body in self.calls if (method, name) == ("POST", resource)]
        return found


@contextmanager
def recording_server() -> Iterator[Recorder]:
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            name = self.path.partition("?")[0].removeprefix(API).strip("/")
            recorder.calls.append((self.command, name, body))
            status = recorder.refuse if self.command == "POST" and recorder.refuse else 200
            known = ANSWERS.get((self.command, name))
            text = json.dumps(known if known is not None else {}).encode()
            self.send_response(status if known is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _answer

        def log_message(self, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorder.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
