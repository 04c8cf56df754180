"""A real S3 server on loopback (rclone), and a wire to it that breaks where a test says."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from minio import Minio

KEYS = ("test-access", "test-secret")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One rclone process that serves `root` on a fixed port; can be stopped and started."""

    root: Path
    port: int
    keys: tuple[str, ...] = KEYS
    tls: tuple[Path, Path] | None = None
    """Certificate and key, PEM."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(sys.executable).with_name("rclone")
        command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", ",".join(self.keys), str(self.root)]
        if self.tls:
            command += ["--cert", str(self.tls[0]), "--key", str(self.tls[1])]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("rclone did not start")

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
            self.process = None

    def client(self) -> Minio:
        return Minio(endpoint=f"127.0.0.1:{self.port}", access_key=self.keys[0], secret_key=self.keys[1], secure=False, region="us-east-1")


@contextmanager
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with an empty `bucket`; the environment names it and its keys."""
    (folder / "s3" / "bucket").mkdir(parents=True)
    server = Server(folder / "s3", free_port())
    server.start()
    monkeypatch.setenv("MINIO_ENDPOINT", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
    try:
        yield server
    finally:
        server.stop()


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause before another try fails the test: what is final is told at once."""

    def pause(seconds: float) -> None:
        raise AssertionError(f"a pause of {seconds} s before another try")

    monkeypatch.setattr("mugv.store.s3_client.time", SimpleNamespace(sleep=pause))


@contextmanager
def _ended(connection: socket.socket) -> Iterator[socket.socket]:
    """Closing alone tells the other side nothing while a thread still reads."""
    try:
        yield connection
    finally:
        with closing(connection), suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Wire:
    """Passes connections on to a server. Where a request for `path` has been answered with `after` bytes, it does `then` and breaks."""

    target: int
    path: str = ""
    after: int = 0
    then: Callable[[], None] = lambda: None
    times: int = 1
    requests: list[str] = field(default_factory=list)
    """Heads of all requests that went through."""
    port: int = field(default_factory=free_port)

    def run(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            near, _ = listener.accept()
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        asked: list[str] = []
        with _ended(near), suppress(OSError), _ended(socket.create_connection(("127.0.0.1", self.target))) as far:
            threading.Thread(target=self._requests, args=(near, far, asked), daemon=True).start()
            answered, request = 0, 0
            while data := far.recv(4096):
                if len(asked) != request:
                    answered, request = 0, len(asked)
                answered += len(data)
                if self.times and asked and self.path in asked[-1].split("\r\n")[0] and answered > self.after:
                    self.times -= 1
                    self.then()
                    return
                near.sendall(data)

    def _requests(self, near: socket.socket, far: socket.socket, asked: list[str]) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                asked.append(data.decode("latin-1"))
                self.requests.append(asked[-1])
                far.sendall(data)
            far.shutdown(socket.SHUT_RDWR)
