"""TLS to an S3 server: whose certificates are believed, and what a refused one is called."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from mugv.errors import UserError

CA_NAMES = ("MUGV_S3_CA", "AWS_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name a file (PEM) or folder of certificates; the first that is set is believed beside the system's own."""


def tls_context(label: str, names: tuple[str, ...] = CA_NAMES) -> ssl.SSLContext:
    """Raises UserError when the certificates that the environment names cannot be read."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        # An image without the system's certificates.
        import certifi

        context.load_verify_locations(certifi.where())
    name = next((n for n in names if os.environ.get(n)), "")
    if name:
        path = Path(os.environ[name])
        try:
            context.load_verify_locations(**{"capath" if path.is_dir() else "cafile": str(path)})
        except ssl.SSLError:
            raise UserError(f"{label}: {name} {path}: holds no certificate; give a PEM file with that of the server's authority") from None
        except OSError as error:
            raise UserError(f"{label}: {name} {path}: {error.strerror}; give a PEM file with the certificate of the authority") from None
    return context


def refused_certificate(error: BaseException | None, name: str = CA_NAMES[0]) -> str:
    """Why the connection cannot be trusted, as half a sentence with what to do; "" where the error is another one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {error.verify_message}; name the PEM file of its authority in {name}"
        if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            return "it does not speak TLS; write its address with http://"
        inner = getattr(error, "reason", None)
        error = inner if isinstance(inner, BaseException) else error.args[0] if _wraps(error) else error.__cause__ or error.__context__
    return ""


def _wraps(error: BaseException) -> bool:
    return bool(error.args) and isinstance(error.args[0], BaseException)
