"""What an address is: a path as people type it, or a URI. A `%`, `#` or `?` in a path is a character of its name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(file):/", re.IGNORECASE)


def scheme_of(address: str) -> str:
    """Scheme of a URI in lower case; "" for a path."""
    found = _SCHEME.match(address)
    return (found[1] or found[2]).lower() if found else ""


def file_uri(path: Path) -> str:
    """The `file://` URI of a path, whatever bytes its name has."""
    return "file://" + quote_from_bytes(os.fsencode(path.absolute()))


def file_path(uri: str) -> Path:
    """The path that a `file:` URI (or a plain path) names; the inverse of `file_uri`."""
    if not scheme_of(uri):
        return Path(uri)
    rest = uri.partition(":")[2]
    if rest.startswith("//"):
        rest = "/" + rest[2:].partition("/")[2]
    return Path(os.fsdecode(unquote_to_bytes(rest)))
