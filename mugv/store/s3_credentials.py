"""The keys of an S3 server, from where AWS's own tools look for them. The first source that is set is the one; a metadata server is asked
only where nothing else is.

    MUGV_S3_ACCESS_KEY, MUGV_S3_SECRET_KEY                            fixed keys
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY [AWS_SESSION_TOKEN]      fixed keys
    AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN                         a pod's service account (IRSA); the token service is
                                                                      AWS's, or that of AWS_ENDPOINT_URL_STS
    AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials, AWS_PROFILE    a person's file
    AWS_CONTAINER_CREDENTIALS_{FULL,RELATIVE}_URI                     ECS, EKS Pod Identity
    the metadata server of an EC2 machine                             unless AWS_EC2_METADATA_DISABLED is true
"""

from __future__ import annotations

import configparser
import os
import re
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AWSConfigProvider, IamAwsProvider, Provider, StaticProvider

from mugv.errors import UserError
from mugv.store.s3_tls import CA_NAMES, tls_context

PAIRS = (("MUGV_S3_ACCESS_KEY", "MUGV_S3_SECRET_KEY"), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
CONTAINER = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
TOKENS = ("AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE")
SERVICES = ("AWS_ENDPOINT_URL_STS", "AWS_EC2_METADATA_SERVICE_ENDPOINT")
WATCHED = (*PAIRS[0], *PAIRS[1], *CONTAINER, *TOKENS, *SERVICES, *CA_NAMES)
NO_KEYS = (
    "no keys; set MUGV_S3_ACCESS_KEY and MUGV_S3_SECRET_KEY, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod's service"
    " account a role (AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE), or a profile in ~/.aws/credentials"
)
METADATA = "the metadata server of the machine"
METADATA_SECONDS = urllib3.Timeout(connect=1, read=2)
"""Link-local servers answer at once or are not there."""
TOKEN_SECONDS = urllib3.Timeout(connect=5, read=10)
_AWAY = (urllib3.exceptions.HTTPError, ConnectionError)


def source() -> str:
    """What the keys would come from, in words; "" where only a metadata server is left to ask. Nobody is asked for this."""
    env = os.environ
    for access, secret in PAIRS:
        if env.get(access) or env.get(secret):
            return f"{access} and {secret}"
    if env.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return "web identity"
    if env.get("AWS_PROFILE") or _has_default(_file()):
        return f"profile {env.get('AWS_PROFILE', 'default')} of {_file()}"
    return next((name for name in CONTAINER if env.get(name)), "")


def provider(label: str) -> Provider:
    """Where requests get their keys from; keys for a time are renewed. `label` says in errors what it is for.

    Raises UserError, within seconds, where no keys can be had.
    """
    found = source()
    _check(label, found)
    made = _Explained(label, found or METADATA, _provider(found, tuple(os.environ.get(n, "") for n in WATCHED)))
    try:
        made.retrieve()
    except _AWAY as error:
        raise UserError(f"{label}: {made.reason(error)}") from error
    return made


def _check(label: str, found: str) -> None:
    env = os.environ
    for access, secret in PAIRS:
        if found.startswith(access) and not (env.get(access) and env.get(secret)):
            raise UserError(f"{label}: {access if env.get(access) else secret} is set alone; set {access} and {secret}")
    if not found and env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise UserError(f"{label}: {NO_KEYS}")


@lru_cache(maxsize=8)
def _provider(found: str, settings: tuple[str, ...]) -> Provider:
    """One for each environment (`settings`): a token service is not asked again for each client."""
    env = os.environ
    for access, secret in PAIRS:
        if found.startswith(access):
            # A token belongs to AWS's own pair.
            return StaticProvider(env[access], env[secret], env.get("AWS_SESSION_TOKEN") if access.startswith("AWS") else None)
    if found == "web identity":
        return IamAwsProvider(custom_endpoint=env.get("AWS_ENDPOINT_URL_STS"), http_client=_pool(TOKEN_SECONDS))
    if found.startswith("profile"):
        return AWSConfigProvider(str(_file()), env.get("AWS_PROFILE"))
    metadata = None if found else env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    return IamAwsProvider(custom_endpoint=metadata, http_client=_pool(METADATA_SECONDS))


class _Explained(Provider):
    """A provider whose failure is one line with its name; what it says itself may hold a token."""

    def __init__(self, label: str, name: str, inner: Provider) -> None:
        self.label, self.name, self.inner = label, name, inner

    def retrieve(self) -> Credentials:
        """Raises UserError for a refusal; where the service is away, what the caller tries again for."""
        try:
            found: Credentials = self.inner.retrieve()
        except _AWAY:
            raise
        except (ValueError, KeyError, TypeError, OSError, ElementTree.ParseError, configparser.Error) as error:
            if re.search(r"status code 5\d\d$", str(error)):
                raise ConnectionError(f"{self.name}: {_told(error)}") from None
            raise UserError(f"{self.label}: {self.reason(error)}") from error
        return found

    def reason(self, error: Exception) -> str:
        if self.name == METADATA:
            return NO_KEYS
        if self.name == "web identity":
            file = os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE", "")
            if not Path(file).is_file():
                return f"AWS_WEB_IDENTITY_TOKEN_FILE {file}: no such file; is the service account's token mounted?"
            role = os.environ.get("AWS_ROLE_ARN", "(AWS_ROLE_ARN is not set)")
            return f"the token service gives no keys for {role} ({_told(error)}); check the role's trust in this service account"
        return f"{self.name} gives no keys ({_told(error)})"


def _told(error: Exception) -> str:
    """Without the address, whose query holds the token."""
    if isinstance(error, urllib3.exceptions.HTTPError):
        return type(getattr(error, "reason", None) or error).__name__
    return str(error).rpartition(" failed with ")[2] if " failed with " in str(error) else " ".join(str(error).split())[:120]


def _file() -> Path:
    return Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()


def _has_default(path: Path) -> bool:
    try:
        return "[default]" in path.read_text(errors="replace")
    except OSError:
        return False


def _pool(timeout: urllib3.Timeout) -> urllib3.PoolManager:
    return urllib3.PoolManager(timeout=timeout, retries=urllib3.Retry(0), ssl_context=tls_context("keys"))
