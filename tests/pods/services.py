"""What tasks talk to, on loopback: a real S3 server (rclone), a real MLflow server, and a wire to the first that errs and breaks."""

from __future__ import annotations

import http.client
import random
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from s3_server import KEYS, Server, free_port

BUCKET = "mugv"
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Faults:
    """How often a wire errs: a share of requests is answered 503, another is cut before, in or after its answer."""

    errors: float = 0.0
    cuts: float = 0.0
    seed: int = 0
    away: threading.Event = field(default_factory=threading.Event)
    """While set, every connection is refused service."""
    counts: dict[str, int] = field(default_factory=lambda: {"passed": 0, "errors": 0, "cuts": 0})

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def draw(self) -> str:
        with self._lock:
            drawn = self._random.random()
            kind = "errors" if drawn < self.errors or self.away.is_set() else "cuts" if drawn < self.errors + self.cuts else "passed"
            self.counts[kind] += 1
            return kind

    def part(self, size: int) -> int:
        """After how many of `size` bytes a connection is cut."""
        with self._lock:
            return self._random.randrange(size + 1)


def wire(target: int, faults: Faults) -> int:
    """Start a proxy to a port of this machine; returns its own port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *parts: object) -> None:
            """Quiet."""

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = faults.draw()
            if kind == "errors":
                return self.answer(503, {"Content-Type": "application/xml"}, BUSY)
            if kind == "cuts" and faults.part(1):
                return self.cut()
            try:
                status, headers, content = _asked(target, self.command, self.path, dict(self.headers), body)
            except OSError:
                return self.cut()
            if kind == "cuts":
                head = len(content) if self.command != "HEAD" else 0
                self.answer(status, headers | {"Content-Length": str(len(content) or 1)}, content[: faults.part(head)])
                return self.cut()
            self.answer(status, headers, content)

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def cut(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def _asked(port: int, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        # The signature is over the host that was asked for.
        connection.request(method, path, body, {n: v for n, v in headers.items() if n.lower() != "connection"})
        found = connection.getresponse()
        content = found.read()
        kept = {n: v for n, v in found.getheaders() if n.lower() not in ("transfer-encoding", "connection", "content-length")}
        length = found.getheader("Content-Length")
        return found.status, kept | ({"Content-Length": length} if length and method == "HEAD" else {}), content
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


@dataclass
class Mlflow:
    """One MLflow server over a database and artifacts of its own; can be stopped and started."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=_environment(), start_new_session=True)
        for _ in range(600):
            with suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.2)
        raise AssertionError(f"MLflow did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        import psutil

        if self.process:
            family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            _, alive = psutil.wait_procs(family, timeout=10)
            for process in alive:
                process.kill()
            self.process.wait()
            self.process = None


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class Services:
    """Store and tracking of one namespace, and the settings by which tasks find them."""

    def __init__(self, folder: Path, faults: Faults | None = None, tracking: bool = True) -> None:
        (folder / "s3" / BUCKET).mkdir(parents=True)
        self.store = Server(folder / "s3", free_port())
        self.store.start()
        self.faults = faults
        self.port = wire(self.store.port, faults) if faults else self.store.port
        self.tracking = Mlflow(folder / "mlflow") if tracking else None
        if self.tracking:
            self.tracking.start()

    def stop(self) -> None:
        self.store.stop()
        if self.tracking:
            self.tracking.stop()

    def settings(self) -> dict[str, dict[str, str]]:
        """Config maps and secrets by name, as the manifests make them, with the addresses of these servers."""
        keys = {"MUGV_S3_ACCESS_KEY": KEYS[0], "MUGV_S3_SECRET_KEY": KEYS[1]}
        place = {"MUGV_STORE": f"s3://{BUCKET}", "MUGV_S3_ENDPOINT": f"http://127.0.0.1:{self.port}", "MUGV_STATE": "/mugv"}
        tracking = {"MLFLOW_TRACKING_URI": self.tracking.uri if self.tracking else ""}
        return {"mugv-store": place | keys, "mugv-mlflow": tracking}

    def environment(self) -> dict[str, Any]:
        """Of a command of this machine that compiles for this namespace; never through the faults."""
        direct = {"MUGV_S3_ENDPOINT": f"http://127.0.0.1:{self.store.port}"}
        return {**self.settings()["mugv-store"], **direct}
