"""The way to an S3 server: a client from the environment, retries with growing pauses, and which answers are final.

Settings: MUGV_S3_ENDPOINT (or MINIO_ENDPOINT, AWS_ENDPOINT_URL), AWS_REGION, keys as in mugv.store.s3_credentials, certificates as in
mugv.store.s3_tls.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit
from xml.etree import ElementTree

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from mugv.errors import ServiceAwayError, StoreError, UserError
from mugv.store.base import PATIENCE
from mugv.store.s3_credentials import provider
from mugv.store.s3_tls import refused_certificate, tls_context

logger = logging.getLogger(__name__)
T = TypeVar("T")
ATTEMPTS = 6
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0
THREADS = 4
CONNECTIONS = 64
"""That are kept open: outputs of many shards are fetched side by side, each file by file."""
NO_BUCKET = "no such bucket; make it, or let `mugv doctor --create-bucket` do so"
TIMEOUT = urllib3.Timeout(connect=10, read=300)
_MISSING = {"NoSuchKey", "NoSuchBucket", "NotFound"}
_FINAL = {400, 401, 403, 405, 409, 501}
"""Answers that stay the same however often one asks."""


ANSWERS = (S3Error, InvalidResponseError, ServerError, urllib3.exceptions.HTTPError, ConnectionError, ElementTree.ParseError, ValueError)
"""What the client raises for a server that is away or whose answer it cannot read: not XML, no date, a length that is none."""


class MissingObjectError(StoreError):
    """Nothing of that name."""


class OddAnswerError(Exception):
    """The server answered, but not what was asked for: cut, or a proxy's page. Asked again. `hint`: what to do if it stays so."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.lasting, self.hint = bool(hint), hint or "run again when the server is well"


def connect(label: str, timeout: urllib3.Timeout = TIMEOUT) -> Minio:
    """A client of the server that the environment names. `label` says in errors what it is for. Raises UserError without keys."""
    server, secure = endpoint(label)
    # Retries are ours: the client's own would multiply with them and cannot be told what is final.
    context = tls_context(label) if secure else None
    pool = urllib3.PoolManager(timeout=timeout, retries=urllib3.Retry(0), maxsize=CONNECTIONS, ssl_context=context)
    return Minio(endpoint=server, credentials=provider(label), secure=secure, region=region(), http_client=pool)


def region() -> str:
    """What requests are signed for; servers other than AWS take any."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


ENDPOINTS = ("MUGV_S3_ENDPOINT", "MINIO_ENDPOINT", "AWS_ENDPOINT_URL")


def endpoint(label: str) -> tuple[str, bool]:
    """Host with port, and whether by TLS, of the server that the environment names. Raises UserError, which shows no password."""
    name = next((n for n in ENDPOINTS if os.environ.get(n)), "")
    given = os.environ.get(name, "https://s3.amazonaws.com").strip()
    right = "expected http://HOST:PORT or https://HOST"
    try:
        parsed = urlsplit(given if "//" in given else f"http://{given}")
        host, port = parsed.hostname, parsed.port
    except ValueError:
        raise UserError(f"{label}: {name} is not an address; {right}") from None
    if "@" in given:
        raise UserError(f"{label}: {name} must not hold a user or a password; set MUGV_S3_ACCESS_KEY and MUGV_S3_SECRET_KEY, and {right}")
    if not host or parsed.scheme not in ("http", "https") or parsed.path.strip("/") or parsed.query or parsed.fragment:
        raise UserError(f"{label}: {name} {given!r} is not the address of a server alone; {right}")
    shown = f"[{host}]" if ":" in host else host
    return (f"{shown}:{port}" if port else shown), parsed.scheme == "https"


def retried(label: str, what: str, action: Callable[[], T]) -> T:
    """Do `action`, again with growing pauses while the server is away, busy or answers oddly.

    Raises MissingObjectError; ServiceAwayError for a server that stays away; StoreError for one that refuses or is no object store.
    """
    patience = float(os.environ.get(PATIENCE, "0"))
    attempt, waited, wait = 0, 0.0, FIRST_WAIT_SECONDS
    while True:
        try:
            return action()
        except UserError:
            raise
        except (*ANSWERS, OddAnswerError) as error:
            attempt += 1
            _give_up_if_final(label, what, error)
            if attempt >= ATTEMPTS and (waited >= patience or isinstance(error, OddAnswerError)):
                raise _given_up(f"{label}: {what} failed {attempt} times ({_short(error)})", error) from error
            if attempt == ATTEMPTS:
                logger.warning("%s: %s failed %d times (%s); asked again for %.0f s", label, what, attempt, _short(error), patience)
        time.sleep(wait)
        waited, wait = waited + wait, min(2 * wait, LONGEST_WAIT_SECONDS)


def _given_up(told: str, error: Exception) -> StoreError:
    if not isinstance(error, OddAnswerError):
        return ServiceAwayError(f"{told}; run again when it is back")
    return (StoreError if error.lasting else ServiceAwayError)(f"{told}; {error.hint}")


def _give_up_if_final(label: str, what: str, error: Exception) -> None:
    status = _status(error)
    if untrusted := refused_certificate(error):
        raise StoreError(f"{label}: {what} refused: {untrusted}") from error
    if status == 404:
        # To put or to list fails so for the bucket alone.
        bucket = getattr(error, "code", "") == "NoSuchBucket" or what.startswith(("put ", "list"))
        absent = NO_BUCKET if bucket else "no such object or bucket"
        raise MissingObjectError(f"{label}: {what}: {absent}") from error
    if status in _FINAL:
        raise StoreError(f"{label}: {what} refused ({_short(error)}); check the bucket, the keys and the endpoint") from error


def _status(error: Exception) -> int:
    """HTTP status of an answer; 0 when there was none. Some servers answer with errors that only InvalidResponseError carries."""
    if isinstance(error, S3Error):
        return 404 if error.code in _MISSING else int(getattr(error.response, "status", 0) or 0)
    if isinstance(error, InvalidResponseError):
        return int(error._code)
    return 0


def _short(error: Exception) -> str:
    if isinstance(error, S3Error):
        return f"{error.code}: {error.message}"
    return " ".join(str(error).split())[:160]
