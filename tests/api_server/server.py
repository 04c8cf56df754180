"""The API server of Kubernetes' CustomResourceDefinitions with etcd on loopback, our role asked of it, and a stand-in for what it lacks.

client --http--> Front --https--> apiext --> etcd
                   |                 `-- TokenReview, SubjectAccessReview --> Front, which reads manifests/base/rbac.yaml
                   `-- pods, logs, events: in memory, written by the test that plays the kubelet
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "system:serviceaccount:mugv:mugv-pipeline"
USERS = {"admin": "admin", "launcher": ACCOUNT, "stranger": "system:serviceaccount:mugv:default"}
"""Token -> user. Any other token is not accepted."""
BINARY = Path(os.environ.get("MUGV_API_SERVER", Path.home() / ".cache/mugv/api-server")) / "apiext"
WITHOUT = (
    "--authentication-tolerate-lookup-failure",
    "--enable-priority-and-fairness=false",
    "--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,"
    "ValidatingAdmissionPolicy,MutatingAdmissionPolicy",
)


def rules() -> dict[str, list[dict[str, Any]]]:
    """User -> rules, from the repository's own roles."""
    found = list(yaml.safe_load_all((ROOT / "manifests/base/rbac.yaml").read_text()))
    granted = [o["roleRef"]["name"] for o in found if o["kind"].endswith("Binding")]
    roles = {o["metadata"]["name"]: o["rules"] for o in found if o["kind"] in ("Role", "ClusterRole")}
    return {ACCOUNT: [rule for name in granted for rule in roles[name]]}


class Front(BaseHTTPRequestHandler):
    """Serves core objects and the reviews, hands the rest on."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    pods: ClassVar[dict[str, dict[str, Any]]] = {}
    logs: ClassVar[dict[str, str]] = {}
    events: ClassVar[list[dict[str, Any]]] = []
    down = False
    granted: ClassVar[dict[str, list[dict[str, Any]]]] = {}

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/apis/authentication.k8s.io/"):
            self._send(201, self._token_review(json.loads(body)))
        elif self.path.startswith("/apis/authorization.k8s.io/"):
            self._send(201, self._access_review(json.loads(body)))
        elif Front.down:
            self._send(503, {"kind": "Status", "message": "away", "code": 503})
        elif self.path.startswith("/api/v1/namespaces/mugv/"):
            self._core()
        elif self.path.startswith("/api/v1/"):
            self._send(200, {"kind": "NamespaceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})
        else:
            self._forward(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _token_review(self, review: dict[str, Any]) -> dict[str, Any]:
        user = USERS.get(review["spec"]["token"])
        return review | {"status": {"authenticated": bool(user), "user": {"username": user or ""}}}

    def _access_review(self, review: dict[str, Any]) -> dict[str, Any]:
        spec = review["spec"]
        return review | {"status": {"allowed": allowed(spec.get("user", ""), spec.get("resourceAttributes"))}}

    def _core(self) -> None:
        """Pods, their logs and events of a namespace, as the launcher asks for them."""
        url = urlsplit(self.path)
        query, parts = parse_qs(url.query), url.path.split("/")[5:]
        user = USERS.get(self.headers.get("Authorization", "").removeprefix("Bearer "), "")
        if not allowed(user, {"verb": "list" if len(parts) == 1 else "get", "group": "", "resource": "/".join((parts[0], *parts[2:]))}):
            self._send(403, {"kind": "Status", "code": 403, "message": f'{parts[0]} is forbidden: User "{user}" cannot list'})
        elif parts == ["pods"]:
            label, _, value = query["labelSelector"][0].partition("=")
            self._send(200, {"items": [p for p in Front.pods.values() if p["metadata"].get("labels", {}).get(label) == value]})
        elif parts[0] == "pods" and parts[2:] == ["log"]:
            self._send(200, Front.logs.get(parts[1], ""))
        else:
            name = query["fieldSelector"][0].partition("=")[2]
            self._send(200, {"items": [e for e in Front.events if e["involvedObject"]["name"] == name]})

    def _forward(self, body: bytes) -> None:
        headers = {k: v for k, v in self.headers.items() if k.lower() in ("authorization", "content-type", "accept")}
        request = urllib.request.Request(Front.upstream + self.path, body or None, headers, method=self.command)
        try:
            with urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=60) as answer:
                self._copy(answer)
        except urllib.error.HTTPError as error:
            self._copy(error)
        except urllib.error.URLError as error:
            self._send(503, {"kind": "Status", "message": str(error), "code": 503})

    def _copy(self, answer: Any) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Connection", "close")
        self.end_headers()
        while part := answer.read1(65536):
            self.wfile.write(part)
            self.wfile.flush()
        self.close_connection = True

    def _send(self, status: int, value: Any) -> None:
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def allowed(user: str, asked: dict[str, Any] | None) -> bool:
    """Kubernetes' rule: some rule has the verb, the group and the resource with its subresource."""
    if user in ("admin", "system:anonymous", "system:apiserver") or asked is None:
        return True
    resource = "/".join(part for part in (asked.get("resource", ""), asked.get("subresource", "")) if part)
    return any(
        asked["verb"] in rule["verbs"] and asked.get("group", "") in rule["apiGroups"] and resource in rule["resources"]
        for rule in Front.granted.get(user, ())
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """URL of the front while etcd and the server run. `folder`: for their files."""
    client, peer, secure = free_port(), free_port(), free_port()
    front = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    url = f"http://127.0.0.1:{front.server_port}"
    Front.upstream, Front.granted = f"https://127.0.0.1:{secure}", rules()
    threading.Thread(target=front.serve_forever, daemon=True).start()
    reviews = kubeconfig(folder / "reviews.yaml", url, "admin")
    etcd = [
        "etcd",
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
    ]
    server = [
        str(BINARY),
        f"--etcd-servers=http://127.0.0.1:{client}",
        f"--secure-port={secure}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder / 'certificates'}",
        *(f"--{name}={reviews}" for name in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")),
        "--authentication-skip-lookup",
        *WITHOUT,
    ]
    with ExitStack() as stack:
        stack.callback(front.shutdown)
        log = stack.enter_context((folder / "log").open("wb"))
        processes = []
        for command in (etcd, server):
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "2"}))
            stack.callback(processes[-1].wait, 30)
            stack.callback(processes[-1].terminate)
        _wait(url, processes, folder / "log")
        yield url


def _wait(url: str, processes: list[subprocess.Popen[bytes]], log: Path) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        ended = [p for p in processes if p.poll() is not None]
        assert not ended, f"{ended[0].args} ended: {log.read_text()[-2000:]}"
        try:
            request = urllib.request.Request(f"{url}/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
            request.add_header("Authorization", "Bearer admin")
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the API server did not answer: {log.read_text()[-2000:]}")


def kubeconfig(path: Path, url: str, token: str) -> Path:
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "mugv"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(tree))
    return path
