"""Kubeflow Pipelines, the object store, MLflow: do they answer, are the keys accepted, is everything there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import urllib3

from mugv.errors import UserError
from mugv.platform.doctor import Finding, ok, skipped, wrong
from mugv.store.uri import scheme_of

if TYPE_CHECKING:
    from minio import Minio

SHORT = urllib3.Timeout(connect=4, read=8)
MLFLOW_CA = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def pipelines(endpoint: str | None, namespace: str | None) -> Iterator[Finding]:
    """The KFP API, its version, the token, the namespace."""
    from mugv.platform.kfp_api import KfpApi, given_token, resolve_endpoint
    from mugv.platform.kfp_client import EXPERIMENT

    if not endpoint and not os.environ.get("KFP_ENDPOINT"):
        yield skipped("KFP", "no endpoint is named; give --endpoint or set KFP_ENDPOINT to look at it")
        return
    api = KfpApi(resolve_endpoint(endpoint), namespace or os.environ.get("KFP_NAMESPACE", ""), given_token(), SHORT)
    health = api.connect()
    version = health.get("tag_name") or health.get("commit_sha") or "unknown"
    yield ok("KFP", f"{api.host} answers, version {version}, {'a namespace for each user' if api.multi_user else 'one user'}")
    try:
        api.named("experiments", "experiments", EXPERIMENT)
    except UserError as error:
        yield wrong("KFP namespace", str(error))
    else:
        yield ok("KFP namespace", f"experiments of {api.namespace or 'the server'} can be read")


def store(address: str, create: bool) -> Iterator[Finding]:
    """The store's endpoint, keys, bucket, and a probe that is written, read and removed."""
    scheme = scheme_of(address)
    if scheme in ("", "file"):
        yield _folder_store(address)
        return
    from mugv.store.s3 import S3Store
    from mugv.store.s3_client import connect, endpoint
    from mugv.store.s3_credentials import source

    server, secure = endpoint(f"store {address}")
    client = connect(f"store {address}", SHORT)
    yield ok("store keys", f"from {source() or 'the metadata server of the machine'}")
    opened = S3Store(address, Path("unused"), client)
    found = _bucket(client, opened.bucket, f"{'https' if secure else 'http'}://{server}", create)
    yield found
    if found.state == "ok":
        yield _probe(client, opened.bucket, f"{opened.base}/".lstrip("/"))


def _folder_store(address: str) -> Finding:
    from mugv.store import open_store

    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return wrong("store", f"{address} is a folder", "set MUGV_STORE=s3://BUCKET/PREFIX, which all tasks reach")
    return ok("store", f"{open_store(address).uri}, a folder of this machine; a cluster needs MUGV_STORE=s3://BUCKET/PREFIX")


def _bucket(client: Minio, bucket: str, server: str, create: bool) -> Finding:
    from mugv.store.s3_client import ANSWERS
    from mugv.store.s3_tls import refused_certificate

    name = "store bucket"
    try:
        if client.bucket_exists(bucket_name=bucket):
            return ok(name, f"s3://{bucket} is at {server}")
        if not create:
            return wrong(name, f"s3://{bucket}: no such bucket at {server}", "make it, or let `mugv doctor --create-bucket` do so")
        client.make_bucket(bucket_name=bucket)
        return ok(name, f"s3://{bucket} was made at {server}")
    except ANSWERS as error:
        if untrusted := refused_certificate(error):
            return wrong("store endpoint", f"{server}: {untrusted}")
        if isinstance(error, urllib3.exceptions.HTTPError):
            reason = type(getattr(error, "reason", None) or error).__name__
            return wrong("store endpoint", f"{server} does not answer ({reason})", "check MUGV_S3_ENDPOINT and that the server runs")
        return wrong(name, f"s3://{bucket} at {server} is refused ({_short(error)})", "check the keys and their leave to use this bucket")


def _probe(client: Minio, bucket: str, base: str) -> Finding:
    """As the store does it: put, get, remove."""
    import io

    from mugv.store.s3_client import ANSWERS

    name, text, done = f"{base}.mugv-doctor-{uuid4().hex}", b"mugv doctor", "written"
    try:
        client.put_object(bucket_name=bucket, object_name=name, data=io.BytesIO(text), length=len(text))
        done = "read"
        answer = client.get_object(bucket_name=bucket, object_name=name)
        same = answer.read() == text
        answer.close()
        answer.release_conn()
        done = "removed"
        client.remove_object(bucket_name=bucket, object_name=name)
    except ANSWERS as error:
        leave = "give its keys s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket"
        return wrong("store probe", f"s3://{bucket}/{name} cannot be {done} ({_short(error)})", leave)
    if not same:
        return wrong("store probe", f"s3://{bucket}/{name} comes back changed", "check what lies between here and the store")
    return ok("store probe", f"an object below s3://{bucket}/{base} is written, read and removed")


def _short(error: Exception) -> str:
    code = getattr(error, "code", "")
    return str(code or " ".join(str(error).split())[:120])


def mlflow(uri: str) -> Iterator[Finding]:
    """MLflow's server: answers, knows the user."""
    if not uri.startswith(("http://", "https://")):
        yield skipped("MLflow", f"{'no server is named: MLFLOW_TRACKING_URI is not set' if not uri else 'a database or folder'}")
        return
    if "@" in urlsplit(uri).netloc:
        mend = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (in the cluster: the secret mugv-mlflow)"
        yield wrong("MLflow", "MLFLOW_TRACKING_URI must not hold a user or a password", mend)
        return
    ask = partial(_ask_mlflow, uri.rstrip("/"))
    try:
        version = ask("GET", "/version")
        if version.status >= 400 or b"<" in version.data[:200]:
            yield wrong("MLflow", f"{uri} does not answer as MLflow does ({version.status})", "check MLFLOW_TRACKING_URI")
            return
        yield ok("MLflow", f"{uri} answers, version {version.data.decode('utf-8', 'replace')[:20]}")
        answer = ask("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1})
    except (urllib3.exceptions.HTTPError, OSError) as error:
        yield _mlflow_away(uri, error)
        return
    if answer.status in (401, 403):
        mend = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) to a user that it knows"
        yield wrong("MLflow user", f"refused ({answer.status})", mend)
    elif answer.status >= 400 or not _is_json(answer.data):
        yield wrong("MLflow user", f"experiments cannot be read ({answer.status})", "look at the server's log")
    else:
        yield ok("MLflow user", "experiments can be read")


def _ask_mlflow(uri: str, method: str, path: str, body: dict[str, int] | None = None) -> urllib3.BaseHTTPResponse:
    from mugv.store.s3_tls import tls_context

    env = os.environ
    headers = {}
    if env.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{env['MLFLOW_TRACKING_USERNAME']}:{env.get('MLFLOW_TRACKING_PASSWORD', '')}"
        headers = urllib3.make_headers(basic_auth=pair)
    elif env.get("MLFLOW_TRACKING_TOKEN"):
        headers = {"Authorization": f"Bearer {env['MLFLOW_TRACKING_TOKEN']}"}
    context = tls_context(f"MLflow {uri}", MLFLOW_CA) if uri.startswith("https") else None
    pool = urllib3.PoolManager(timeout=SHORT, retries=False, ssl_context=context)
    return pool.request(method, f"{uri}{path}", headers=headers, json=body, redirect=False)


def _mlflow_away(uri: str, error: Exception) -> Finding:
    from mugv.store.s3_tls import refused_certificate

    if untrusted := refused_certificate(error, MLFLOW_CA[0]):
        return wrong("MLflow", f"{uri}: {untrusted}")
    return wrong("MLflow", f"{uri} does not answer ({type(error).__name__})", "check MLFLOW_TRACKING_URI and that the server runs")


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
