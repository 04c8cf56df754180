"""Passwords, signatures and keys out of texts that people, records and trackers will read. Standard library only.

A URI may carry what opens a door: `user:password@`, a signature or a token in its query. It is needed where the door is opened and
nowhere else, so everything that is shown, logged, stored or sent passes `redact` first.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import traceback
from types import TracebackType
from urllib.parse import unquote, urlsplit, urlunsplit

HIDDEN = "***"

_SLASHES = r"(?:(?<=\w:)|(?<![\w/.:-]))//"
# A password with a raw slash, question mark or hash: no URI, but what people paste. A port (`host:80/a@b`) is none.
_ODD_USER = re.compile(_SLASHES + r"(?!\*\*\*@)[^\s@/\"<>]*:(?!\d+[/?#])[^\s@\"<>]*@")
_USER = re.compile(_SLASHES + r"[^/?#\s\"<>]*@")
_PARAMETER = re.compile(r"(?P<name>(?:[?&;#]|\\u0026)(?P<key>[^=&;?#\s\"'<>\\]{1,80})=)(?P<value>[^&#\s\"'<>\\]+)")
_HEADER = re.compile(
    r"(?P<name>\b(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|digest|token)\s+)?"
    r"|\b(?:x-api-key|api[-_]?key|x-auth-token|x-amz-security-token|password|passwd|secret[-_]?(?:access[-_]?)?key|access[-_]?token)"
    r"(?:[\"']?=[\"']?|[\"']\s*:\s*[\"']?)"
    r"|\bbearer\s+(?=\S{16}))(?P<value>[^\s\"'&;<>]+)",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"^l?sig$|signature|token|secret|passw|^pwd?$|^pass$|auth|credential|api-?key|access-?key|access-?id|^key$|(^|-)key(-|$)|hmac|^policy$"
    r"|session|jwt|hdnea|^md5$|^hash$|^otp$|^pin$|^h?dnts?$",
    re.IGNORECASE,
)
_SIGNING_NAME = re.compile(r"^x-(amz|goog|oss|cos|bce|ms)-|^expires?$|^e$|^exp$", re.IGNORECASE)
_AZURE = {"sv", "st", "se", "sr", "sp", "spr", "sip", "ss", "srt", "skoid", "sktid", "skt", "ske", "sks", "skv", "sdd", "saoid", "suoid"}
_RUN = re.compile(r"[A-Za-z0-9]{16,}")
_RUN_LEAST = 24
"""Characters of a value that looks drawn by chance: a UUID or a slug is none, a signature in base64 or hex is."""


def redact(text: str) -> str:
    """`text` with `***` for users, passwords, tokens and signatures of the URIs in it, and for what follows `Authorization:` and its like.

    Idempotent; a text without secrets comes back as it is.
    """
    text = _USER.sub(f"//{HIDDEN}@", _ODD_USER.sub(f"//{HIDDEN}@", text))
    return _HEADER.sub(_without_value, _PARAMETER.sub(_parameter, text))


def has_secrets(text: str) -> bool:
    """Whether `redact` would hide something that is still there."""
    return redact(text) != text


class RedactingFormatter(logging.Formatter):
    """Lines of a log, other libraries' too: urllib3 names addresses whole."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook`."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def unsigned(uri: str) -> str:
    """The URI without user, secrets, and what is renewed with each signature: the same for one file, whoever signs it and when.

    Of other values that look like secrets a digest stays.
    """
    head, mark, query = uri.partition("?")
    try:
        address = urlsplit(head)
    except ValueError:
        return redact(uri)
    head = urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2], fragment=""))
    pairs = [pair for pair in re.split("[&;]", query.partition("#")[0]) if pair]
    names = {_name(pair.partition("=")[0]).lower() for pair in pairs}
    signing = _AZURE if "sig" in names else set()
    kept = [
        _kept(*pair.partition("="))
        for pair in pairs
        if not _SECRET_NAME.search(name := _name(pair.partition("=")[0])) and not _signs(name, signing)
    ]
    return redact(head + mark + "&".join(kept) if kept else head)


def _kept(key: str, mark: str, value: str) -> str:
    """A value that looks like a secret may as well be what tells the file: its digest does that too."""
    return f"{key}{mark}{hashlib.sha256(value.encode()).hexdigest()[:12] if _secret(key, value) else value}"


def _without_value(match: re.Match[str]) -> str:
    value = match["value"]
    kept = value[len(value.rstrip(".,:;)]}")) :]
    return f"{match['name']}{HIDDEN}{kept}"


def _parameter(match: re.Match[str]) -> str:
    return _without_value(match) if _secret(match["key"], match["value"]) else match[0]


def _secret(key: str, value: str) -> bool:
    """By the parameter's name, by a value that looks drawn by chance, or by a URI with secrets in the value."""
    plain = unquote(value)
    if _SECRET_NAME.search(_name(key)):
        return True
    runs = _RUN.findall(plain) if len(plain) >= _RUN_LEAST else []
    mixed = any(re.search("[0-9]", run) and re.search("[A-Za-z]", run) for run in runs)
    return mixed or ("//" in plain and plain != value and has_secrets(plain))


def _signs(name: str, more: set[str]) -> bool:
    return name.lower() in more or bool(_SIGNING_NAME.search(name))


def _name(key: str) -> str:
    return unquote(key).removeprefix("amp;").replace("_", "-")
