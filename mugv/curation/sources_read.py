"""From `data.videos` to the sources: a folder, an S3 prefix, or a parquet list of URIs (local or in S3).

Nothing heavy is imported for a folder: this runs before every run, for the digest that its cache keys start from.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlparse

from mugv.curation import sources_s3
from mugv.curation.sources import SourceFile, finish
from mugv.curation.sources_captions import Said, read_captions
from mugv.curation.sources_list import read_list, s3_digest
from mugv.errors import UserError

EXTENSIONS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv", ".wmv", ".3gp", ".ogv")
CAPTIONS = "captions.jsonl"
LIST = ".parquet"
S3 = sources_s3.SCHEME


def read_sources(location: str | Path, captions: str | None = None, cache: Path | None = None) -> list[SourceFile]:
    """Every source by name, with digest and captions; all of shard 0.

    `captions`: a captions.jsonl (path or s3://); None: captions.jsonl of the folder or prefix, if any. `cache`: a JSON file that
    remembers digests of a folder's files by path, size and time of change. Raises UserError.
    """
    location = str(location)
    beside = None
    if location.endswith(LIST) and (location.startswith(S3) or not _path(location).is_dir()):
        found = _list(location)
    elif location.startswith(S3):
        found, beside = _prefix(location)
    else:
        found, beside = _folder(location, cache)
    sidecar = captions or beside
    if sidecar:
        said = read_captions(_bytes(sidecar), sidecar.rpartition("/")[2], {source.name for source in found}, location)
        found = [_with(source, said.get(source.name)) for source in found]
    return finish(found)


def base_folder(location: str | Path) -> Path | None:
    """Where a source without a URI, or with a relative one, starts from; None for what lies in S3."""
    location = str(location)
    if location.startswith(S3):
        return None
    path = _path(location)
    return path if path.is_dir() else path.parent


def known_here(location: str) -> bool:
    """Whether the sources can be listed from this machine: paths of a cluster's volume, or S3 without keys, cannot."""
    if location.startswith(S3):
        from mugv.store.s3_client import keys

        return keys() is not None
    return _path(location).exists()


def _path(location: str, key: str = "data.videos") -> Path:
    """Raises UserError for a scheme other than file://."""
    if "://" not in location:
        return Path(location)
    url = urlparse(location)
    if url.scheme != "file":
        kinds = "a path, file://, or s3://" + (", or a .parquet list of such URIs or of http(s)://" if key == "data.videos" else "")
        raise UserError(f"{key} {location}: scheme {url.scheme!r} is not supported; use {kinds}")
    return Path(unquote(url.path))


def _list(location: str) -> list[SourceFile]:
    if location.startswith(S3):
        return read_list(sources_s3.read_object(location), f"data.videos {location}", None)
    path = _path(location)
    if not path.exists():
        raise UserError(f"data.videos {location}: no such file")
    return read_list(path, f"data.videos {location}", path.parent)


def _prefix(location: str) -> tuple[list[SourceFile], str | None]:
    """The videos under an S3 prefix, and the URI of the captions beside them."""
    objects = sources_s3.list_objects(location)
    root = location.rstrip("/")
    found = [
        SourceFile(name, s3_digest(etag, size) if etag else hashlib.sha256(f"{root}/{name}".encode()).hexdigest(), size, (), etag=etag)
        for name, size, etag in objects
        if Path(name).suffix.lower() in EXTENSIONS and not _hidden(name)
    ]
    if not found:
        raise UserError(f"data.videos {location}: no video objects; expected names ending in {' '.join(EXTENSIONS)}")
    beside = f"{root}/{CAPTIONS}" if any(name == CAPTIONS for name, _, _ in objects) else None
    return [replace(source, uri=f"{root}/{source.name}") for source in found], beside


def _folder(location: str, cache: Path | None) -> tuple[list[SourceFile], str | None]:
    folder = _path(location)
    if not folder.exists():
        raise UserError(f"data.videos {location}: no such folder")
    if not folder.is_dir():
        raise UserError(f"data.videos {location}: not a folder; give the folder that holds the video files, or a {LIST} list of URIs")
    names = [name for name in _names(folder) if Path(name).suffix.lower() in EXTENSIONS and not _hidden(name)]
    if not names:
        raise UserError(f"{folder}: no video files; expected names ending in {' '.join(EXTENSIONS)}")
    paths = [folder / name for name in names]
    digests = _digests(paths, cache)
    found = [SourceFile(name, digest, path.stat().st_size, ()) for name, digest, path in zip(names, digests, paths, strict=True)]
    beside = folder / CAPTIONS
    return found, str(beside) if beside.exists() else None


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _bytes(captions: str) -> bytes:
    if captions.startswith(S3):
        return sources_s3.read_object(captions)
    try:
        return _path(captions, "data.captions").read_bytes()
    except OSError as error:
        raise UserError(f"data.captions {captions}: cannot be read ({error.strerror})") from None


def _with(source: SourceFile, said: Said | None) -> SourceFile:
    """A captions file comes before the list's own caption of the whole source, and its licence before the list's."""
    if said is None:
        return source
    whole = any(c.start == 0 and c.end is None for c in said.captions)
    captions = (*said.captions, *(() if whole else source.captions))
    return replace(source, captions=captions, licence=said.licence or source.licence)


def _digests(paths: list[Path], cache: Path | None) -> list[str]:
    known: dict[str, str] = {}
    if cache and cache.exists():
        try:
            known = json.loads(cache.read_text())
        except ValueError:
            known = {}
    fresh = {}
    for path in paths:
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        fresh[key] = known.get(key) or file_digest(path)
    if cache:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(".tmp")
        temporary.write_text(json.dumps({**known, **fresh}))
        os.replace(temporary, cache)
    return list(fresh.values())


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
