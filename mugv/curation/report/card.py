"""The data card of a clip set: what it holds, what was thrown away and why, by which thresholds, licences and tools.

card.json is for programs, DATA_CARD.md says the same to people. Neither names the time of day: equal clip sets have equal cards.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mugv.curation.merge import ranked
from mugv.curation.rows import ClipRow
from mugv.curation.rules import RULES, limits
from mugv.errors import UserError
from mugv.recipe.curation import SERVICE
from mugv.recipe.schema import Curation

FORMAT = "mugv-clipset-1"
TOOLS = ("av", "opencv-python-headless", "scenedetect-headless", "numpy", "faiss-cpu", "onnxruntime", "rapidocr", "transformers", "pyarrow")
UNSTATED = "not stated"
TAGS_SHOWN = 30
RANK_NAMES = {"sharpness": "sharpness", "motion": "nearness of motion to its median", "aesthetic": "aesthetic score"}
LONGEST_NAME = 300
_MARKUP = re.compile(r"[\\`*_\[\]<>&|#!~$]|[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Of Markdown and HTML, and characters that move or hide others."""
BY_CLIP = "there are too few sources to hold one back: validation clips come from the same footage as training clips"


def make_card(rows: Sequence[ClipRow], shards: Mapping[str, str], split_by: str, settings: Curation) -> dict[str, Any]:
    """What card.json holds. shards: file -> SHA-256."""
    kept = [row for row in rows if row.status == "kept"]
    return {
        "format": FORMAT,
        "clips": _counts(row.split for row in kept),
        "sources": len({row.source for row in rows}),
        "sources_kept": len({row.source for row in kept}),
        "sources_digest": sources_digest(rows),
        "rejected": _counts(row.reason for row in rows if row.status == "rejected"),
        "scored": _counts(row.reason or "none" for row in rows if row.status == "scored"),
        "seconds": round(sum(row.frames / row.fps for row in kept), 2),
        "sizes": _counts(f"{row.width}x{row.height}, {row.frames} frames at {row.fps:g}" for row in kept),
        "stored": _counts(row.stored or "encoded" for row in kept),
        "split_by": split_by,
        "note": BY_CLIP if split_by == "clip" else "",
        "score": _score_text(kept),
        "licences": _counts(row.licence or UNSTATED for row in kept),
        "captions": _counts(row.caption_source or "none" for row in kept),
        "tags": dict(sorted(Counter(tag for row in kept for tag in row.tags).most_common(), key=lambda t: (-t[1], t[0]))[:TAGS_SHOWN]),
        "thresholds": thresholds(settings),
        "settings": settings.model_dump(mode="json", exclude={"caption": set(SERVICE)}),
        "tools": tools(),
        "models": models(settings),
        "shards": dict(shards),
    }


def thresholds(settings: Curation) -> dict[str, dict[str, float]]:
    """Score -> its limits, of the scores that have any."""
    found = {rule.score: limits(rule, settings) for rule in RULES}
    set_ = {name: {"minimum": r.minimum, "maximum": r.maximum} for name, r in found.items()}
    return {name: kept for name, sides in set_.items() if (kept := {side: v for side, v in sides.items() if v is not None})}


def sources_digest(rows: Iterable[ClipRow]) -> str:
    """SHA-256 over the names and digests of all sources."""
    lines = sorted({f"{row.source}\0{row.source_digest}\n" for row in rows})
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tools() -> dict[str, str]:
    """Package -> version, of those that decide what a clip set holds and are installed."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def models(settings: Curation) -> dict[str, str]:
    """Weights that the recipe names -> SHA-256 of the file, or of all files of a folder. Raises UserError when they are gone."""
    named = {
        "aesthetic.clip": settings.aesthetic.clip,
        "aesthetic.head": settings.aesthetic.head,
        "motion.weights": settings.motion.weights,
    }
    return {name: _digest(name, Path(path)) for name, path in named.items() if path}


def card_text(card: Mapping[str, Any]) -> str:
    """DATA_CARD.md."""
    kept, gone = sum(card["clips"].values()), sum(card["rejected"].values())
    scored = sum(card["scored"].values())
    lead = f"{scored} candidates were scored and none was dropped." if scored else f"{kept} clips, {card['seconds'] / 60:.1f} minutes."
    limits_ = {name: ", ".join(f"{side} {v:g}" for side, v in sides.items()) for name, sides in card["thresholds"].items()}
    parts = [
        "# Data card\n",
        f"{lead} {card['sources_kept']} of {card['sources']} sources gave clips; {gone} candidates were rejected.",
        f"{card['note'][:1].upper()}{card['note'][1:]}.\n" if card["note"] else "",
        _table("Clips", "split", card["clips"]),
        _table("Rejected", "reason", card["rejected"]),
        _table("Scored", "reason that the thresholds give", card["scored"]),
        _table("Sizes", "size", card["sizes"]),
        _table("Licences", "licence", card["licences"], foreign=True),
        _table("Captions", "source", card["captions"], foreign=True),
        _table("Most frequent tags", "tag", card["tags"], foreign=True),
        _table("Thresholds", "score", limits_, "limits"),
        _table("Stored", "how", card["stored"]),
        _table("Tools", "package", card["tools"], "version"),
        _table("Models", "weights", card["models"], "SHA-256", foreign=True),
        f"Composite score: {card['score']}.\n" if card["score"] else "",
        f"Sources, SHA-256 over their names and digests: `{card['sources_digest']}`.\n",
        _table("Shards", "file", card["shards"], "SHA-256"),
    ]
    return "\n".join(part for part in parts if part)


def _score_text(kept: Sequence[ClipRow]) -> str:
    names = [RANK_NAMES[name] for name in ranked(kept)]
    return f"mean of {len(names)} ranks over the kept clips: {', and '.join(names)}" if names else ""


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _digest(name: str, path: Path) -> str:
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        whole = hashlib.sha256()
        for file in files:
            with file.open("rb") as opened:
                own = hashlib.file_digest(opened, "sha256")
            if not path.is_dir():
                return own.hexdigest()
            whole.update(f"{file.relative_to(path).as_posix()} {own.hexdigest()}\n".encode())
        return whole.hexdigest()
    except OSError as error:
        raise UserError(f"curation.{name} {path}: cannot be read ({error.strerror})") from None


def _table(title: str, first: str, values: Mapping[str, Any], second: str = "clips", foreign: bool = False) -> str:
    """`foreign`: the names are what others wrote."""
    if not values:
        return ""
    rows = "".join(f"| {_plain(name) if foreign else name} | {value} |\n" for name, value in values.items())
    return f"\n## {title}\n\n| {first} | {second} |\n|---|---|\n{rows}"


def _plain(text: str) -> str:
    """No markup in Markdown or HTML, and it stays in its cell."""
    return _MARKUP.sub(_escaped, " ".join(text.split())[:LONGEST_NAME])


def _escaped(found: re.Match[str]) -> str:
    sign = found[0]
    return {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(sign) or (f"\\{sign}" if sign.isprintable() else f"\\\\u{ord(sign):04x}")
