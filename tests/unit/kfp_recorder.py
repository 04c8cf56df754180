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
    ("GET", "runs"): {"runs": []},
    ("GET", "recurringruns"): {"recurringRuns": []},
}
LISTS = {"experiments": "experiments", "runs": "runs", "recurringruns": "recurringRuns"}


class Recorder:
    """What arrived, in order: (method, resource, body)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self.refuse = 0
        """HTTP status given to every POST; 0: answer normally."""
        self.answers: dict[tuple[str, str], tuple[int, str, str]] = {}
        """(method, resource) -> status, type and text of an answer that is not the usual one."""
        self.lost: set[tuple[str, str]] = set()
        """What is done and then not answered."""
        self.made: dict[str, list[dict[str, Any]]] = {}
        """Resource -> what was posted there, as a later list has it."""
        self.multi_user = False
        self.headers: list[dict[str, str]] = []
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
            recorder.headers.append(dict(self.headers))
            status, kind, text = self._content(name, body)
            if (self.command, name) in recorder.lost:
                self.connection.close()
                return
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status == 302:
                self.send_header("Location", "/dex/auth?client=kubeflow&state=secret-state")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def _content(self, name: str, body: Any) -> tuple[int, str, str]:
            if (self.command, name) in recorder.answers:
                return recorder.answers[self.command, name]
            if self.command == "DELETE" or name.endswith(":unarchive"):
                return 200, "application/json", "{}"
            known = ANSWERS.get((self.command, name))
            if known is None:
                return 404, "application/json", '{"error":"Not Found","code":5,"message":"Not Found","details":[]}'
            if self.command == "POST" and recorder.refuse:
                return recorder.refuse, "application/json", json.dumps({"code": 7, "message": "no leave"})
            if self.command == "POST":
                recorder.made.setdefault(name, []).append({**body, **known, "display_name": body["display_name"]})
            if name == "healthz":
                known = {"multi_user": recorder.multi_user, "tag_name": "2.15.0"}
            if self.command == "GET" and name in LISTS:
                known = {LISTS[name]: recorder.made.get(name, [])}
            return 200, "application/json", json.dumps(known)

        do_GET = do_POST = do_DELETE = _answer

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
