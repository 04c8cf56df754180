"""A parquet list of sources: column `uri`, and where there are any `name`, `licence`, `caption`, `bytes` and `etag`. Others are ignored.

Nothing of the sources is read, so that 100,000 of them are a matter of seconds. What identifies one: of an S3 object its etag and
size where the list has them, of a local file size and time of change, otherwise the URI (of the web with etag and size, if any).

Passwords, signatures and tokens in a URI of the web stay in the list: name, identity and `SourceFile.uri` are made of the rest, the
same however often the list is signed anew. Who fetches such a source asks the list again (`signed_uris`).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

from mugv.curation.sources import Caption, SourceFile
from mugv.curation.sources_s3 import SCHEME, split_uri
from mugv.errors import UserError
from mugv.json_lines import shown
from mugv.redact import has_secrets, redact, unsigned

if TYPE_CHECKING:
    import pyarrow as pa

WEB = ("http://", "https://")
TEXTS = ("uri", "name", "licence", "caption", "etag")
COLUMNS = (*TEXTS, "bytes")
LARGEST = 2**62
"""Bytes of a source: more than any has, and a number that the table of sources holds."""


def read_list(source: Path | bytes, label: str, base: Path | None) -> list[SourceFile]:
    """Every row in the list's order. `label` is its name in errors, `base` the folder that relative paths start from.

    Raises UserError: no parquet, no rows, no column `uri`, an unknown scheme, two sources with one name.
    """
    rows = _rows(_table(source, label), label)
    if not rows:
        raise UserError(f"{label}: no rows; expected one source a row")
    seen: dict[str, int] = {}
    found = []
    places = _places(row["uri"] or "" for row in rows)
    for number, row in enumerate(rows, 1):
        made = _source({key: value for key, value in row.items() if value is not None}, f"{label} row {number}", base, places)
        if made.name in seen:
            text = f"{label} row {number}: name {made.name!r} is that of row {seen[made.name]} too; names must be unique"
            raise UserError(text + ("" if row.get("name") else ", and it is the URI where there is no name"))
        seen[made.name] = number
        found.append(made)
    return found


def _rows(table: pa.Table, label: str) -> list[dict[str, Any]]:
    """pyarrow checks no text when it reads a file."""
    try:
        return table.to_pylist()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{label}: text that is not UTF-8 ({shown(error.object[:40])}); a name of other bytes is written file:///a%E9"
        ) from None


def local_rows(source: Path, label: str) -> list[str]:
    """The URIs of a list that are paths of a machine. Raises UserError for what is no list."""
    return [row["uri"] for row in _rows(_table(source, label), label) if row["uri"] and not row["uri"].startswith((SCHEME, *WEB))]


def signed_uris(source: Path | bytes, label: str) -> dict[str, str]:
    """Of the list's web sources whose URI holds secrets: `SourceFile.uri` -> the whole URI. Raises UserError: no list any more."""
    places = _places(row["uri"] or "" for row in _rows(_table(source, label), label))
    return {place: uri for uri, place in places.items() if place != uri}


def _places(uris: Iterable[str]) -> dict[str, str]:
    """Every URI -> what stands for it in texts and tables. Several that differ in their secrets alone are told apart by a digest."""
    places = {uri: unsigned(uri) if uri.startswith(WEB) and has_secrets(uri) else uri for uri in dict.fromkeys(uris)}
    count = Counter(places.values())
    return {uri: place if count[place] == 1 or place == uri else f"{place}#{_sha(_query(uri))[:12]}" for uri, place in places.items()}


def _query(uri: str) -> str:
    return uri.partition("?")[2]


def _table(source: Path | bytes, label: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source if isinstance(source, Path) else pa.BufferReader(source)) as file:
            schema = file.schema_arrow
            _check_columns(schema, label)
            return file.read(columns=[name for name in COLUMNS if name in schema.names])
    except pa.ArrowException as error:
        raise UserError(f"{label}: not a parquet file ({' '.join(str(error).split())[:120]})") from None
    except OSError as error:
        raise UserError(f"{label}: cannot be read ({error.strerror or ' '.join(str(error).split())[:120]})") from None


def _check_columns(schema: pa.Schema, label: str) -> None:
    import pyarrow.types as types

    if "uri" not in schema.names:
        raise UserError(f"{label}: no column 'uri'; it has {', '.join(schema.names) or 'none'}, accepted: {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if schema.names.count(name) > 1:
            raise UserError(f"{label}: two columns {name!r}")
        kind = schema.field(name).type if name in schema.names else None
        if kind is None or types.is_null(kind):
            continue
        value = kind.value_type if types.is_dictionary(kind) else kind
        fits = types.is_integer(value) if name == "bytes" else types.is_string(value) or types.is_large_string(value)
        if not fits:
            raise UserError(f"{label}: column {name!r} must hold {'whole numbers' if name == 'bytes' else 'text'}, not {kind}")


def _source(row: dict[str, Any], at: str, base: Path | None, places: Mapping[str, str]) -> SourceFile:
    whole = row.get("uri", "")
    if not whole.strip():
        raise UserError(f"{at}: no uri")
    uri = places[whole]
    etag, size = row.get("etag", "").strip('"'), min(max(0, row.get("bytes", 0)), LARGEST)
    if uri.startswith(SCHEME):
        if not split_uri(uri)[1]:
            raise UserError(f"{at}: {uri} names no object; expected s3://bucket/key")
        digest = s3_digest(etag, size) if etag else _sha("uri", uri)
    elif uri.startswith(WEB):
        if not _host(whole):
            raise UserError(f"{at}: {uri} names no host; expected https://host/path")
        digest = _sha("uri", uri, etag, str(size))
    else:
        size, digest = _local(uri, local_path(uri, base, at))
    caption = row.get("caption", "").strip()
    captions = (Caption(0.0, None, caption),) if caption else ()
    name = row.get("name") or uri
    licence = redact(row.get("licence", "").strip())
    return SourceFile(
        unsigned(name) if name.startswith(WEB) and has_secrets(name) else name,
        digest,
        size,
        captions,
        uri=uri,
        etag=etag,
        licence=licence,
        signed=uri != whole,
    )


def _host(uri: str) -> str:
    try:
        return urlsplit(uri).hostname or ""
    except ValueError:
        return ""


def local_path(uri: str, base: Path | None, at: str) -> Path:
    """The file of a path or file:// URI (`file://./` begins at the base). Raises UserError for other schemes, and for a relative path
    without a `base`."""
    scheme, rest = uri.partition("://")[::2] if "://" in uri else ("", uri)
    if scheme not in ("", "file"):
        raise UserError(f"{at}: {uri}: scheme {scheme!r} is not supported; use a path, file://, s3://bucket/key or https://host/path")
    path = _of_uri(rest) if scheme else Path(rest)
    if base is None and not path.is_absolute():
        raise UserError(f"{at}: {uri}: a relative path in a list that is not a local file; use s3://bucket/key")
    return path if base is None else base / path


def _of_uri(rest: str) -> Path:
    """Quoted bytes need not be UTF-8."""
    host, _, name = rest.partition("/")
    return Path(os.fsdecode(unquote_to_bytes(name if host == "." else f"/{name}")))


def _local(uri: str, path: Path) -> tuple[int, str]:
    """Bytes and digest; a file that is not there is told by its URI, and is found missing when its turn comes."""
    try:
        facts = path.stat()
    except (OSError, ValueError):
        # ValueError: a NUL.
        return 0, _sha("uri", uri)
    return facts.st_size, _sha("file", uri, str(facts.st_size), str(facts.st_mtime_ns))


def s3_digest(etag: str, size: int) -> str:
    """Objects of one etag and size hold the same bytes."""
    return _sha("s3", etag, str(size) if size else "")


def _sha(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
