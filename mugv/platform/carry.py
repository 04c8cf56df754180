"""What a recipe names on the machine that submits it: files are carried into the store, the rest is refused or must be on a volume."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mugv.errors import UserError
from mugv.recipe import Recipe
from mugv.recipe.load import part
from mugv.store.uri import file_path, scheme_of

FILES = (
    "data.captions",
    "align.labels",
    "curation.aesthetic.clip",
    "curation.aesthetic.head",
    "curation.motion.weights",
    "curation.duplicates.earlier",
    "weights.dit",
    "weights.vae",
)
"""Keys that name a file or a folder, always."""
MODELS = {"text.path": ("text.kind", "t5"), "curation.caption.model": ("curation.caption.kind", "transformers")}
"""Keys that name a folder or something on the hub, and when they name one at all."""
VIDEOS = "data.videos"
STATE_VOLUME = "/mugv"
"""Where every task has the state volume."""

Carrier = Callable[[Path, str], str]
"""(file or folder, key) -> its URI in the store."""


def carry_files(recipe: Recipe, carrier: Carrier | None = None) -> tuple[Recipe, list[str]]:
    """The recipe with URIs for what this machine alone has, and a line for each path that the tasks must find on a volume or in an image.

    `carrier`: see Carrier; None: into the store of MUGV_STORE. Raises UserError for what is missing here, too large or cannot be carried.
    """
    carrier = carrier or _to_store
    changes: dict[str, Any] = {}
    notes: list[str] = []
    volumes = _volumes(recipe)
    for key in (*FILES, *MODELS, VIDEOS):
        value = _value(recipe, key)
        if not value:
            continue
        many = [value] if isinstance(value, str) else list(value)
        made = [_carried(key, each, volumes, carrier, notes) for each in many]
        if made != many:
            changes[key] = made[0] if isinstance(value, str) else tuple(made)
    return _with(recipe, changes), notes


def _value(recipe: Recipe, key: str) -> Any:
    if key.startswith("align.") and recipe.align is None:
        return None
    if key in MODELS:
        where, kind = MODELS[key]
        if part(recipe, where) != kind:
            return None
    return part(recipe, key)


def _volumes(recipe: Recipe) -> list[Path]:
    """Folders that the tasks have on a volume: nothing below them is looked for here."""
    videos = recipe.data.videos or ""
    mounted = videos.rpartition("/")[0] if videos.endswith(".parquet") else videos
    # A list that lies here is carried; its folder is mounted only where it stays a path.
    return [Path(STATE_VOLUME), *([Path(mounted)] if mounted.startswith("/") and not Path(videos).is_file() else [])]


def _carried(key: str, value: str, volumes: list[Path], carrier: Carrier, notes: list[str]) -> str:
    scheme = scheme_of(value)
    if scheme not in ("", "file"):
        return value
    path = file_path(value).expanduser()
    if path.is_absolute() and any(path.is_relative_to(volume) for volume in volumes) and key != VIDEOS:
        return value
    if key == VIDEOS:
        return _videos(value, path, carrier, notes)
    if path.exists():
        return carrier(path, key)
    if key in MODELS and not _is_path(value):
        return value
    if path.is_absolute() and key not in ("data.captions", "align.labels", "curation.duplicates.earlier"):
        notes.append(f"{key}: {value} is not on this machine; the tasks must find it at that path, in their image or on a volume")
        return value
    raise UserError(f"{key}: {value} is not on this machine; give an existing file, s3://BUCKET/..., or a path below {STATE_VOLUME}")


def _videos(value: str, path: Path, carrier: Carrier, notes: list[str]) -> str:
    """A list of URIs is carried; a folder, and a list of files, must lie on the volume of the videos."""
    if path.suffix == ".parquet" and path.is_file():
        from mugv.curation.sources_list import local_rows

        local = local_rows(path, f"{VIDEOS} {value}")
        if not local:
            return carrier(path, VIDEOS)
        what = f"names files of this machine, such as {local[0]}"
    else:
        what = "is a folder" if path.suffix != ".parquet" else "is not on this machine"
    if not path.is_absolute():
        raise UserError(
            f"{VIDEOS}: {value} {what}, which no task can read; put the videos into a bucket and name them s3://BUCKET/..., or on"
            " the volume mugv-videos and give their absolute path there"
        )
    mount = path.parent if path.suffix == ".parquet" else path
    notes.append(f"{VIDEOS}: {value} {what}; the tasks read it on the volume mugv-videos, mounted at {mount}")
    return str(path)


def _is_path(value: str) -> bool:
    """Else it is a name on the hub: OWNER/NAME."""
    return value.startswith(("/", ".", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value)


def _with(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    tree = recipe.model_dump(mode="json", by_alias=True)
    for key, value in changes.items():
        *above, name = key.split(".")
        node = tree
        for each in above:
            node = node[each]
        node[name] = value
    return Recipe.model_validate(tree) if changes else recipe


def files_of(key: str) -> str:
    """Pattern of what is carried of a folder: of a clip set the tables alone are read."""
    return "*.parquet" if key == "curation.duplicates.earlier" else "*"


def _to_store(path: Path, key: str) -> str:
    from mugv.store import open_store
    from mugv.store.carried import carry

    where = os.environ.get("MUGV_STORE", "")
    if not where:
        raise UserError(
            f"{key}: {path} lies on this machine and must go into the cluster's store: set MUGV_STORE=s3://BUCKET/PREFIX, MUGV_S3_ENDPOINT"
            " and its keys, or put it into the bucket yourself and name it s3://BUCKET/..."
        )
    return carry(path, open_store(where), key, files_of(key))
