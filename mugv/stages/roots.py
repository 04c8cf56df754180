"""What the cache keys of a run start from: the user's data, the files that the recipe names, and the code. Found once and handed down.

A task far from the user's files (a pod) computes no digest but that of its own stage's code. See mugv.stages.graph.Keys.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mugv.digests import DigestMemory, content_digest
from mugv.errors import UserError
from mugv.recipe import Recipe
from mugv.stages.code_digest import code_digest
from mugv.stages.graph import Node, build_graph, value_at
from mugv.store.carried import carried_digest

FILE_KEYS = (
    *("curation.aesthetic.clip", "curation.aesthetic.head", "curation.motion.weights", "curation.caption.model"),
    *("curation.duplicates.earlier", "weights.vae", "weights.dit", "text.path", "align.labels"),
)
"""Keys of a recipe that name a file or a folder, beside `data`."""
NAMES = ("text.path", "curation.caption.model")
"""Keys whose value may be a name on a hub: where no such file is here, the name stands for itself."""
CLIP_SETS = ("curation.duplicates.earlier",)
"""Keys that name clip sets, of which only the tables are read."""
MEMORY = "digests.json"
_SHA256 = re.compile(r"[0-9a-f]{64}|")


@dataclass(frozen=True)
class Roots:
    """All that keys depend on beside the recipe. Small enough for a pipeline's parameter."""

    data: str
    """Digest of the user's videos and captions; "": the sample footage."""
    files: dict[str, str]
    """Dotted path in the recipe -> digest of the file, folder or list of these that it names; "": it names none."""
    code: dict[str, str]
    """Stage -> digest of its code."""
    named: str = ""
    """Digest of the recipe's values that data and files were found by."""

    @classmethod
    def of(cls, recipe: Recipe, state: Path | None = None, nodes: Iterable[Node] | None = None) -> Roots:
        """Read the data and the files that `recipe` names. `state`: a folder where digests of files are remembered from run to run.

        `nodes`: only what these need; default: the whole graph. Raises UserError for what cannot be read.
        """
        nodes = build_graph(recipe) if nodes is None else list(nodes)
        tree = recipe.model_dump(mode="json", by_alias=True)
        first = any(node.stage == "scan" and not node.inputs for node in nodes)
        data = importlib.import_module("mugv.stages.scan").data_digest(recipe, state) if first else ""
        memory = DigestMemory(state / MEMORY if state else None)
        files = {path: _digest(path, value_at(tree, path), memory) for path in sorted({path for node in nodes for path in node.files})}
        memory.keep()
        return cls(data, files, {node.stage: code_digest(node.code) for node in nodes}, _named(recipe))

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def parse(cls, text: str, recipe: Recipe) -> Roots:
        """What `to_json` wrote. Raises UserError for anything else, and for roots of other data or files than `recipe` names."""
        try:
            tree = json.loads(text)
            roots = cls(**tree)
            good = [*roots.files.values(), *roots.code.values(), roots.data, roots.named]
            if not all(isinstance(value, str) and _SHA256.fullmatch(value) for value in good):
                raise TypeError(text)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UserError("roots: not what `mugv compile` writes; leave the parameter as it was compiled, or empty") from None
        if roots.named != _named(recipe):
            raise UserError("roots: found for a recipe with other data or files; compile or submit this recipe, or leave `roots` empty")
        return roots


def missing_here(recipe: Recipe) -> list[str]:
    """Keys whose files lie on a volume of the tasks and not on this machine."""
    tree = recipe.model_dump(mode="json", by_alias=True)
    missing = []
    for key in (key for key in FILE_KEYS if key not in NAMES):
        value = value_at(tree, key) or []
        named = [value] if isinstance(value, str) else value
        if any(name.startswith("/") and not Path(name).exists() for name in named):
            missing.append(key)
    return missing


def _named(recipe: Recipe) -> str:
    tree = recipe.model_dump(mode="json", by_alias=True)
    return _sha([value_at(tree, path) for path in ("data.videos", "data.captions", *FILE_KEYS)])


def _digest(path: str, value: str | list[str] | None, memory: DigestMemory) -> str:
    if not value:
        return ""
    if isinstance(value, list):
        return _sha([_digest(path, item, memory) for item in value])
    if known := carried_digest(value):
        return known
    if value.startswith("s3://"):
        from mugv.store.remote import remote_digest

        return remote_digest(value)
    place = Path(value)
    if path in NAMES and not place.exists():
        return _sha(["name", value])
    try:
        if path in CLIP_SETS and place.is_dir():
            return _sha({file.name: memory.of(file) for file in sorted(place.glob("*.parquet"))})
        return content_digest(place, memory.of)
    except OSError as error:
        raise UserError(f"{path}: {value} cannot be read ({error.strerror}); give an existing file or leave the key out") from None


def _sha(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
