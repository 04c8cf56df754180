"""From `data.videos` to the sources: a folder, an S3 prefix, or a parquet list of URIs (local or in S3).

Nothing heavy is imported for a folder: this runs before every run, for the digest that its cache keys start from.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlparse

from mugv.curation import sources_s3
from mugv.curation.sources import SourceFile, finish
from mugv.curation.sources_captions import Said, read_captions
from mugv.curation.sources_folder import COMMON, find_videos, is_video, named, passed_over, storable
from mugv.curation.sources_list import read_list, s3_digest, signed_uris
from mugv.digests import DigestMemory
from mugv.errors import UserError
from mugv.store.carried import carried_digest, local_path

log = logging.getLogger(__name__)
CAPTIONS = "captions.jsonl"
LIST = ".parquet"
S3 = sources_s3.SCHEME


def read_sources(location: str | Path, captions: str | None = None, cache: Path | None = None) -> list[SourceFile]:
    """Every source by name, with digest and captions; all of shard 0. One line in the log says what of a folder is passed over.

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


def signed_sources(location: str | Path, sources: Sequence[SourceFile]) -> dict[str, str]:
    """`SourceFile.uri` -> the whole URI, of the sources among these whose URI the scan did not keep whole. Raises UserError."""
    if not any(source.signed for source in sources):
        return {}
    location = str(location)
    return signed_uris(sources_s3.read_object(location) if location.startswith(S3) else _path(location), f"data.videos {location}")


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
        from mugv.store.s3_credentials import source

        return bool(source())
    return _path(location).exists()


def _path(location: str, key: str = "data.videos") -> Path:
    """Raises UserError for a scheme other than file://, and for a path that records and pipelines cannot hold."""
    if (shown := storable(location)) != location:
        raise UserError(f"{key} {shown}: a path that is not UTF-8; give it another name, or a link to it (names of files in it may be so)")
    if "://" not in location:
        return Path(location)
    url = urlparse(location)
    if url.scheme != "file":
        kinds = "a path, file://, or s3://" + (", or a .parquet list of such URIs or of http(s)://" if key == "data.videos" else "")
        raise UserError(f"{key} {location}: scheme {url.scheme!r} is not supported; use {kinds}")
    return Path(os.fsdecode(unquote_to_bytes(url.path)))


def _list(location: str) -> list[SourceFile]:
    if carried_digest(location):
        return read_list(local_path(location), f"data.videos {location}", None)
    if location.startswith(S3):
        return read_list(sources_s3.read_object(location), f"data.videos {location}", None)
    path = _path(location)
    if not path.exists():
        raise UserError(f"data.videos {location}: no such file")
    return read_list(path, f"data.videos {location}", path.parent)


def _prefix(location: str) -> tuple[list[SourceFile], str | None]:
    """The videos under an S3 prefix, and the URI of the captions beside them."""
    objects = [one for one in sources_s3.list_objects(location) if not _hidden(one[0])]
    root = location.rstrip("/")
    found = [
        SourceFile(name, s3_digest(etag, size) if etag else hashlib.sha256(f"{root}/{name}".encode()).hexdigest(), size, (), etag=etag)
        for name, size, etag in objects
        if is_video(name)
    ]
    passed = passed_over((name for name, _, _ in objects if name != CAPTIONS and not is_video(name)), Counter())
    if not found:
        raise UserError(f"data.videos {location}: no video objects; expected names ending in {COMMON} and their like{_also(passed)}")
    _say(location, passed)
    beside = f"{root}/{CAPTIONS}" if any(name == CAPTIONS for name, _, _ in objects) else None
    return [replace(source, uri=f"{root}/{source.name}") for source in found], beside


def _folder(location: str, cache: Path | None) -> tuple[list[SourceFile], str | None]:
    folder = _path(location)
    if not folder.exists():
        raise UserError(f"data.videos {location}: no such folder")
    if not folder.is_dir():
        raise UserError(f"data.videos {location}: not a folder; give the folder that holds the video files, or a {LIST} list of URIs")
    listed = find_videos(folder)
    passed = passed_over((name for name in listed.others if name != CAPTIONS), listed.passed)
    if not listed.videos:
        raise UserError(f"{folder}: no video files; expected names ending in {COMMON} and their like{_also(passed)}")
    _say(location, passed)
    facts = _facts([folder / name for name in listed.videos], cache)
    named_ = named(listed.videos)
    found = [SourceFile(name, digest, size, (), uri=uri) for (name, uri), (digest, size) in zip(named_, facts, strict=True)]
    beside = folder / CAPTIONS
    return found, str(beside) if beside.exists() else None


def _say(location: str, passed: str) -> None:
    if passed:
        log.warning("%s: %s", location, passed)


def _also(passed: str) -> str:
    return f"; {passed}" if passed else ""


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _bytes(captions: str) -> bytes:
    if carried_digest(captions):
        return local_path(captions).read_bytes()
    if captions.startswith(S3):
        return sources_s3.read_object(captions)
    path = _path(captions, "data.captions")
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"data.captions {captions}: not a file; give a captions.jsonl")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"data.captions {captions}: cannot be read ({error.strerror})") from None


def _with(source: SourceFile, said: Said | None) -> SourceFile:
    """A captions file comes before the list's own caption of the whole source, and its licence before the list's."""
    if said is None:
        return source
    whole = any(c.start == 0 and c.end is None for c in said.captions)
    captions = (*said.captions, *(() if whole else source.captions))
    return replace(source, captions=captions, licence=said.licence or source.licence)


def _facts(paths: Iterable[Path], cache: Path | None) -> list[tuple[str, int]]:
    """(digest, bytes) of each file."""
    memory = DigestMemory(cache)
    found = [_facts_of(path, memory) for path in paths]
    memory.keep()
    return found


def _facts_of(path: Path, memory: DigestMemory) -> tuple[str, int]:
    size = 0
    try:
        size = path.stat().st_size
        return memory.of(path), size
    except OSError as error:
        # When its turn comes it is rejected with the reason, and the others are kept.
        return hashlib.sha256(b"unreadable " + os.fsencode(path) + str(error.errno).encode()).hexdigest(), size
