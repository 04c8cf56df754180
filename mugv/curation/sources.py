"""Which files there are to curate, and what is said of them: folder listing, content digests, captions.jsonl.

A captions file has one JSON object a line: {"source": name, "start": seconds, "end": seconds, "caption": text}; without
start and end the caption covers the whole file. Standard library only: this runs before anything heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mugv.errors import MissingFeatureError, UserError

EXTENSIONS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv", ".wmv", ".3gp", ".ogv")
CAPTIONS = "captions.jsonl"


@dataclass(frozen=True)
class Caption:
    """Seconds of the source, half open; start 0 and end None: the whole file."""

    start: float
    end: float | None
    caption: str


@dataclass(frozen=True)
class SourceFile:
    name: str
    """Relative to the folder, with forward slashes."""
    digest: str
    bytes: int
    captions: tuple[Caption, ...]
    shard: int = 0
    duplicate_of: str = ""
    """Name of an earlier file with the same bytes."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(tree: dict[str, Any]) -> SourceFile:
        return SourceFile(**{**tree, "captions": tuple(Caption(**c) for c in tree["captions"])})


def local_folder(location: str) -> Path:
    """The folder that a path or file:// URI names. Raises UserError when it is not there, MissingFeatureError for other URIs."""
    url = urlparse(location)
    if url.scheme and url.scheme != "file" and "://" in location:
        raise MissingFeatureError(f"data.videos {location}: only a local folder or a file:// URI is supported, copy the videos to one")
    folder = Path(unquote(url.path)) if url.scheme == "file" else Path(location)
    if not folder.exists():
        raise UserError(f"data.videos {location}: no such folder")
    if not folder.is_dir():
        raise UserError(f"data.videos {location}: not a folder; give the folder that holds the video files")
    return folder


def list_videos(folder: Path) -> list[Path]:
    """Files with a video's extension, at any depth, sorted by relative name; hidden ones are left out. UserError when none."""
    found = [p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file() and not _hidden(p.relative_to(folder))]
    if not found:
        raise UserError(f"{folder}: no video files; expected names ending in {' '.join(EXTENSIONS)}")
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def read_captions(path: Path, names: set[str], folder: Path) -> dict[str, tuple[Caption, ...]]:
    """Captions by source name, in time order. Raises UserError naming file and line."""
    captions: dict[str, list[Caption]] = {}
    seen: dict[tuple[str, float, float | None], int] = {}
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        source, caption = _parse_line(line, where)
        if source not in names:
            raise UserError(f"{where}: source {source!r} is not in {folder}")
        key = (source, caption.start, caption.end)
        if key in seen:
            span = "the whole file" if caption.end is None else f"{caption.start:g} to {caption.end:g} s"
            raise UserError(f"{where}: duplicate key, {source!r} ({span}) already has a caption on line {seen[key]}")
        seen[key] = number
        captions.setdefault(source, []).append(caption)
    return {name: tuple(sorted(found, key=lambda c: (c.start, c.end or math.inf))) for name, found in captions.items()}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"data.captions {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path.name} line {line}: not UTF-8 text") from None


def _parse_line(line: str, where: str) -> tuple[str, Caption]:
    try:
        tree = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: invalid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(tree, dict):
        raise UserError(f'{where}: expected an object such as {{"source": "a.mp4", "caption": "..."}}')
    for key in ("source", "caption"):
        if key not in tree:
            raise UserError(f"{where}: missing key {key!r}")
        if not isinstance(tree[key], str) or not tree[key].strip():
            raise UserError(f"{where}: {key!r} must be text, got {tree[key]!r}")
    unknown = sorted(set(tree) - {"source", "start", "end", "caption"})
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; accepted: source, start, end, caption")
    start, end = _seconds(tree, "start", where), _seconds(tree, "end", where)
    if end is not None and (start or 0.0) >= end:
        raise UserError(f"{where}: start {start or 0.0:g} must be less than end {end:g}")
    return tree["source"], Caption(start or 0.0, end, tree["caption"].strip())


def _seconds(tree: dict[str, Any], key: str, where: str) -> float | None:
    value = tree.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UserError(f"{where}: {key!r} must be seconds from 0 on, got {value!r}")
    return float(value)


def read_sources(folder: Path, captions: Path | None, cache: Path | None = None) -> list[SourceFile]:
    """Every video of the folder with digest and captions; all of shard 0. `captions` None: captions.jsonl of the folder, if any.

    `cache`: a JSON file that remembers digests by path, size and time of change. Raises UserError.
    """
    paths = list_videos(folder)
    names = [p.relative_to(folder).as_posix() for p in paths]
    beside = folder / CAPTIONS
    sidecar = captions or (beside if beside.exists() else None)
    said = read_captions(sidecar, set(names), folder) if sidecar else {}
    digests = _digests(paths, cache)
    first: dict[str, str] = {}
    sources = []
    for name, path, digest in zip(names, paths, digests, strict=True):
        original = first.setdefault(digest, name)
        same = "" if original == name else original
        sources.append(SourceFile(name, digest, path.stat().st_size, said.get(name, ()), duplicate_of=same))
    return sources


def assign_shards(sources: list[SourceFile], shards: int) -> list[SourceFile]:
    """Largest first onto the lightest shard; the order of the list stays."""
    load = [0] * shards
    place = {}
    for source in sorted(sources, key=lambda s: (-s.bytes, s.name)):
        lightest = min(range(shards), key=lambda k: (load[k], k))
        place[source.name] = lightest
        load[lightest] += 0 if source.duplicate_of else source.bytes
    return [replace(source, shard=place[source.name]) for source in sources]


def digest_of(sources: list[SourceFile]) -> str:
    """SHA-256 over names, contents and captions."""
    facts = [[s.name, s.digest, [[c.start, c.end, c.caption] for c in s.captions]] for s in sources]
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


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
        temporary.replace(cache)
    return list(fresh.values())


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
