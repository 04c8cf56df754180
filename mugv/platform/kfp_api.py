"""The few calls of the Kubeflow Pipelines REST API (v2beta1) that mugv makes, each with a time limit and one line for every refusal.

Not kfp.Client: it waits without limit, follows a login page as if it were an answer, and passes a namespace where none is allowed.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3

from mugv.errors import UserError
from mugv.store.s3_tls import refused_certificate, tls_context

PREFIX = "/apis/v2beta1"
TIMEOUT = urllib3.Timeout(connect=5, read=30)
IN_CLUSTER_TOKEN = "KF_PIPELINES_SA_TOKEN_PATH"
"""Variable by which Kubeflow gives pods and notebooks a token of their own."""
CA_NAMES = ("KFP_CA", "SSL_CERT_FILE")


class RefusedError(UserError):
    """The server answered with an error; `status` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AwayError(UserError):
    """No answer came: what was asked for may have been done or not."""


class KfpApi:
    """A KFP server. `namespace`: the user's, in a multi-user installation; others have none."""

    def __init__(self, host: str, namespace: str = "", token: str = "", timeout: urllib3.Timeout = TIMEOUT) -> None:
        self.host, self.token = host, token
        context = tls_context(f"KFP endpoint {host}", CA_NAMES) if host.startswith("https") else None
        self.pool = urllib3.PoolManager(timeout=timeout, retries=False, ssl_context=context)
        self.wanted = namespace
        self.multi_user = False

    def connect(self) -> dict[str, Any]:
        """Ask whether it is there and has users; returns what it says of itself. Raises UserError."""
        _check_expiry(self.token)
        health = self.get("healthz")
        self.multi_user = health.get("multi_user") is True
        if self.multi_user and not self.wanted:
            raise UserError(f"KFP endpoint {self.host}: has a namespace for each user; give yours with --namespace or KFP_NAMESPACE")
        return health

    @property
    def namespace(self) -> str:
        """What is passed on: a single-user server refuses any."""
        return self.wanted if self.multi_user else ""

    def get(self, resource: str, **query: str) -> dict[str, Any]:
        return self._ask("GET", resource + (f"?{urlencode(query)}" if query else ""))

    def post(self, resource: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", resource, body)

    def delete(self, resource: str) -> None:
        self._ask("DELETE", resource)

    def named(self, resource: str, key: str, name: str, **query: str) -> list[dict[str, Any]]:
        """What of a kind has this display name, newest first."""
        predicates = [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]
        if self.namespace and "experiment_id" not in query:
            query["namespace"] = self.namespace
        found = self.get(resource, filter=json.dumps({"predicates": predicates}), page_size="100", sort_by="created_at desc", **query)
        return [each for each in found.get(key) or [] if isinstance(each, dict)]

    def _ask(self, method: str, resource: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        if cookie := os.environ.get("KFP_COOKIE"):
            headers["Cookie"] = cookie
        try:
            answer = self.pool.request(method, f"{self.host}{PREFIX}/{resource}", headers=headers, json=body, redirect=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise AwayError(self._away(error)) from error
        return self._content(answer, method)

    def _away(self, error: Exception) -> str:
        if untrusted := refused_certificate(error, "KFP_CA"):
            return f"KFP endpoint {self.host}: {untrusted}"
        return f"KFP endpoint {self.host} does not answer ({type(error).__name__}); check --endpoint or KFP_ENDPOINT"

    def _content(self, answer: urllib3.BaseHTTPResponse, method: str) -> dict[str, Any]:
        text = answer.data.decode("utf-8", "replace")
        if 300 <= answer.status < 400:
            where = urlsplit(answer.headers.get("Location", "")).path or "another page"
            raise RefusedError(f"KFP endpoint {self.host} sends to {where} to log in; {_TOKEN}", answer.status)
        if answer.status >= 400:
            raise RefusedError(self._refusal(answer.status, text), answer.status)
        try:
            found = json.loads(text) if text.strip() or method != "DELETE" else {}
            if not isinstance(found, dict):
                raise TypeError(found)
        except (ValueError, TypeError, RecursionError):
            begins = " ".join(text.split())[:40]
            page = f"; where it is a page to log in, {_TOKEN}" if "<html" in text.lower() or "<!doctype" in text.lower() else ""
            raise RefusedError(
                f"KFP endpoint {self.host} does not answer as the KFP API does (it begins with {begins!r}); give the API's address, such"
                f" as http://HOST:8888 or https://HOST/pipeline{page}",
                answer.status,
            ) from None
        return found

    def _refusal(self, status: int, text: str) -> str:
        said = _message(text)
        line = f"KFP endpoint {self.host} refused the request: {status}{f' {said}' if said else ''}"
        if status == 401:
            return f"{line}; the token is wrong or has expired: {_TOKEN}" if self.token else f"{line}; it wants a token: {_TOKEN}"
        if status == 403:
            where = f"namespace {self.namespace}" if self.namespace else "this server"
            return f"{line}; check --namespace, and that the token's user may run pipelines in {where}"
        if status == 404 and not said:
            return f"{line}; no KFP API v2beta1 is there: check the address"
        return line


_TOKEN = "set KFP_TOKEN (or KFP_COOKIE) to a valid one"


def _message(text: str) -> str:
    """What KFP says, without the chain of its own functions; a proxy's plain text as it is; a page is no message."""
    try:
        tree = json.loads(text)
        said = str(tree.get("message") or tree.get("error") or "") if isinstance(tree, dict) else ""
    except (ValueError, RecursionError):
        said = "" if "<" in text else text
    return " ".join(said.split())[:240]


def _check_expiry(token: str) -> None:
    """A JWT says itself when it ends; other tokens do not."""
    parts = token.split(".")
    if len(parts) != 3:
        return
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        ends = float(claims["exp"])
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        return
    if ends < time.time():
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends))
        raise UserError(f"KFP_TOKEN: expired on {when}; set a new one")


def connect(endpoint: str | None, namespace: str | None = None) -> KfpApi:
    """The server that the option or the environment names, asked once. Raises UserError: none given, no answer, no leave."""
    api = KfpApi(resolve_endpoint(endpoint), namespace or os.environ.get("KFP_NAMESPACE", "") or _own_namespace(), given_token())
    api.connect()
    return api


def given_token() -> str:
    """KFP_TOKEN, or the token that Kubeflow gives a pod. Raises UserError when that cannot be read."""
    token = os.environ.get("KFP_TOKEN", "").strip()
    path = os.environ.get(IN_CLUSTER_TOKEN, "")
    try:
        token = token or (Path(path).read_text().strip() if path else "")
    except OSError as error:
        raise UserError(f"{IN_CLUSTER_TOKEN} {path}: {error.strerror}; set KFP_TOKEN") from None
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise UserError("KFP_TOKEN: holds blanks or characters that no token has; set it to the token alone")
    return token


def _own_namespace() -> str:
    """That of the pod, where this runs in one."""
    try:
        return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()
    except OSError:
        return ""


def resolve_endpoint(endpoint: str | None) -> str:
    """The KFP endpoint given, or that of KFP_ENDPOINT. Raises UserError, which shows no password."""
    host = (endpoint or os.environ.get("KFP_ENDPOINT", "")).strip()
    if not host:
        raise UserError("no KFP endpoint: give --endpoint http://HOST:PORT or set KFP_ENDPOINT")
    try:
        parsed = urlsplit(host)
        right = parsed.scheme in ("http", "https") and parsed.hostname and not re.search(r"\s", host) and (parsed.port or True)
    except ValueError:
        right = False
    if not right or parsed.query or parsed.fragment:
        raise UserError(f"KFP endpoint {host!r}: expected a URL such as http://localhost:8888")
    if "@" in parsed.netloc:
        raise UserError("KFP endpoint: must not hold a user or a password; set KFP_TOKEN to a token of the user")
    return host.rstrip("/")
