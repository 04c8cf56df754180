"""What was found for one clip, as a line of captions.jsonl, and the log of a stage that may be killed at any line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "captions.jsonl"


@dataclass(frozen=True)
class Captioned:
    """A clip's caption, or why it has none. Fields are columns of captions.jsonl."""

    clip_id: str
    caption: str = ""
    """In full; empty when only tags were asked for."""
    parts: dict[str, str] = field(default_factory=dict)
    """subject, appearance, motion, camera, background of a structured caption."""
    source: str = ""
    """Name of the model."""
    tokens_input: int = 0
    tokens_output: int = 0
    """Of all requests for this clip, failed ones included."""
    problem: str = ""
    """Why the caption was refused, such as `too long: 300 words, at most 260`; the clip is then rejected."""
    tags: tuple[str, ...] | None = None
    """Of the model; None: not asked for."""

    @staticmethod
    def from_dict(tree: dict[str, Any]) -> Captioned:
        tags = tree.get("tags")
        return Captioned(**{**tree, "tags": None if tags is None else tuple(tags)})


def read_captioned(folders: Iterable[Path]) -> dict[str, Captioned]:
    """clip_id -> what was found, of the captions.jsonl of every folder (outputs of the stage `caption`)."""
    lines = (line for folder in folders for line in (folder / FILE).read_text(encoding="utf-8").splitlines())
    return {found.clip_id: found for found in (Captioned.from_dict(json.loads(line)) for line in lines)}


def write_captioned(folder: Path, found: Iterable[Captioned]) -> None:
    """captions.jsonl in `folder`, a line a clip in the given order. Equal captions give equal bytes."""
    text = "".join(json.dumps(asdict(item), ensure_ascii=False, sort_keys=True) + "\n" for item in found)
    (folder / FILE).write_text(text, encoding="utf-8")


class CaptionLog:
    """Append-only file of finished clips and of tokens spent in vain. Survives `kill -9` at any point: a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, Captioned] = {}
        self.lost_tokens = [0, 0]
        """Input and output tokens of clips that still wait."""
        self._file = path.open("ab+")
        self._read()

    def add(self, found: Captioned) -> None:
        self.done[found.clip_id] = found
        self._write(asdict(found))

    def add_lost(self, tokens_input: int, tokens_output: int) -> None:
        """Tokens of a clip that goes on waiting: paid for all the same."""
        if tokens_input or tokens_output:
            self._spend(tokens_input, tokens_output)
            self._write({"tokens_input": tokens_input, "tokens_output": tokens_output})

    def close(self) -> None:
        self._file.close()

    def _write(self, tree: dict[str, Any]) -> None:
        self._file.write(json.dumps(tree, ensure_ascii=False, sort_keys=True).encode() + b"\n")
        self._file.flush()

    def _read(self) -> None:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            try:
                tree = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                tree = None
            if tree is None:
                break
            whole += len(line)
            if "clip_id" in tree:
                self.done[tree["clip_id"]] = Captioned.from_dict(tree)
            else:
                self._spend(tree["tokens_input"], tree["tokens_output"])
        self._file.truncate(whole)

    def _spend(self, tokens_input: int, tokens_output: int) -> None:
        self.lost_tokens = [self.lost_tokens[0] + tokens_input, self.lost_tokens[1] + tokens_output]
