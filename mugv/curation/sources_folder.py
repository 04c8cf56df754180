"""The video files of a folder and its subfolders: what is read, under which name, and what is passed over. Standard library only."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

_MOVING = """
    .mp4 .m4v .mov .qt .f4v .3gp .3g2 .mj2 .ism .ismv .insv .psp
    .mkv .mk3d .webm .avi .divx .nut
    .mpg .mpeg .mpe .m1v .m2v .mpv .m2p .vob .evo .mod .ts .mts .m2t .m2ts .tod .tp .trp .pva .ty
    .flv .kux .wmv .asf .wtv .dvr-ms .rm .rmvb .ivr .ogv .ogm .ogx
    .mxf .gxf .lxf .dv .dif .cine .r3d .dav .ser
    .gif .apng .y4m .ivf .obu .264 .h264 .h26l .avc .265 .h265 .hevc .266 .h266 .vvc .evc .h261 .h263
    .mjpg .mjpeg .vc1 .rcv .drc .dnxhd .dnxhr .cavs .avs2 .avs3
    .bik .smk .roq .fli .flc .amv .nsv .viv .mv .mvi .thp .usm .moflex .cdxl .xmv .4xm .dxa .siff
"""
EXTENSIONS = frozenset(_MOVING.split())
"""Of what libav's demuxers of moving pictures read. Not those that mostly hold sound, single pictures or text: .ogg, .dat, .ps."""
COMMON = ".mp4 .mov .mkv .webm .avi .mpg .mts .ts .wmv"
"""For errors."""
KINDS_SHOWN = 8


@dataclass
class Found:
    """Relative to the folder, with forward slashes."""

    videos: list[str] = field(default_factory=list)
    """As the system spells them: bytes that are no UTF-8 are surrogates."""
    others: list[str] = field(default_factory=list)
    """Files of other kinds."""
    passed: Counter[str] = field(default_factory=Counter)
    """Kind of what is no file that can be read -> how many."""


def find_videos(folder: Path) -> Found:
    """All that is not hidden. Linked folders are gone through like others, each real folder once; not those that the folder lies in."""
    found, around, read = Found(), {_identity(parent) for parent in folder.resolve().parents}, set[tuple[int, int]]()
    folders, links = [""], deque[str]()
    while folders or links:
        # Links last: a folder that is reached both ways keeps its own name.
        inside = folders.pop() if folders else links.popleft()
        try:
            identity = _identity(folder / inside)
            if identity in around:
                found.passed["linked folders"] += 1
            if identity in around or identity in read:
                continue
            read.add(identity)
            entries = sorted(os.scandir(folder / inside), key=lambda entry: entry.name)
        except OSError:
            found.passed["unreadable folders"] += 1
            continue
        for entry in entries:
            _sort_in(entry, f"{inside}/{entry.name}".removeprefix("/"), found, folders, links)
    found.videos.sort()
    return found


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _sort_in(entry: os.DirEntry[str], name: str, found: Found, folders: list[str], links: deque[str]) -> None:
    if entry.name.startswith("."):
        return
    try:
        mode = entry.stat().st_mode
    except OSError:
        found.passed["broken links" if entry.is_symlink() else "unreadable files"] += 1
        return
    if stat.S_ISDIR(mode):
        (links if entry.is_symlink() else folders).append(name)
    elif not stat.S_ISREG(mode):
        found.passed["pipes and devices"] += 1
    elif is_video(name):
        found.videos.append(name)
    else:
        found.others.append(name)


def is_video(name: str) -> bool:
    """By its extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def passed_over(others: Iterable[str], passed: Counter[str]) -> str:
    """One line of what is not read, such as `5 files passed over: .txt 2, no extension 1, broken links 2`; empty when all is."""
    kinds = Counter(storable(os.path.splitext(name)[1].lower()) or "no extension" for name in others)
    most = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    rest = sum(count for _, count in most[KINDS_SHOWN:])
    shown = [*most[:KINDS_SHOWN], *([("others", rest)] if rest else []), *passed.items()]
    total = kinds.total() + passed.total()
    return f"{total} file{'s' * (total != 1)} passed over: {', '.join(f'{kind} {count}' for kind, count in shown)}" if total else ""


def storable(name: str) -> str:
    r"""The name as text: bytes that are no UTF-8 are written \xe9. Raises UnicodeEncodeError for other surrogates."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def named(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(unique name that can be stored, URI) of every file of a folder; no URI where the name says it."""
    names = list(names)
    taken = {name for name in names if storable(name) == name}
    for name in names:
        stored = storable(name)
        if stored == name:
            yield name, ""
            continue
        while stored in taken:
            stored += "~"
        taken.add(stored)
        yield stored, relative_uri(name)


def relative_uri(name: str) -> str:
    """`file://./` and the quoted bytes of a name relative to the folder."""
    return f"file://./{quote(os.fsencode(name))}"
