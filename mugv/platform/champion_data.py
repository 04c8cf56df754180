"""The champion's data as the store still has them, and the comparisons that wait for somebody, or were confirmed.

Both are tags of the champion's version, so a laptop with MLFLOW_TRACKING_URI confirms for a cluster, and a new champion forgets them.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mugv.errors import StoreError, UserError

if TYPE_CHECKING:
    from mugv.platform.registry import Registry, Version
    from mugv.store import Store

HELD, CONFIRMED = "mugv.drift.held.", "mugv.drift.confirmed."
_DIGEST = re.compile(r"[0-9a-f]{16}")


def fetch_table(store: Store, stage: str, key: str, names: tuple[str, ...], folder: Path) -> Path | None:
    """Local copies, in `folder`, of some files of an output: its tables without its clips. The first one; None when the output is gone."""
    if not key or store.find(f"{stage}/{key}") is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            store.get_file(f"{stage}/{key}/{name}", folder / name)
        except StoreError:
            if name == names[0]:
                raise
    return folder / names[0]


def clip_table(store: Store, key: str, folder: Path) -> Path | None:
    """manifest.parquet of the clip set under a cache key, with its card beside it."""
    return fetch_table(store, "curate", key, ("manifest.parquet", "card.json"), folder)


def hold(registry: Registry, version: Version, digest: str, line: str) -> None:
    """Remember that a comparison waits."""
    registry.tag(version, {HELD + digest: line})


def held(version: Version) -> dict[str, str]:
    """Comparison -> what it found, of those that wait for somebody."""
    waiting = {name.removeprefix(HELD): line for name, line in version.tags.items() if name.startswith(HELD)}
    return {digest: line for digest, line in waiting.items() if not confirmed(version, digest)}


def confirmed(version: Version, digest: str) -> str:
    """Who confirmed a comparison and when; "": nobody."""
    return version.tags.get(CONFIRMED + digest, "")


def confirm(registry: Registry, version: Version, digest: str, who: str) -> str:
    """Let the next retraining go on with exactly the data of a comparison that waits; what it found. Raises UserError for any other."""
    waiting = held(version)
    known = f"these wait: {', '.join(sorted(waiting))}" if waiting else "none waits"
    if not _DIGEST.fullmatch(digest):
        raise UserError(f"confirm {digest}: expected the 16 letters and digits that the retraining named; {known}")
    if confirmed(version, digest):
        raise UserError(f"confirm {digest}: confirmed already {confirmed(version, digest)}; run the retraining again")
    if digest not in waiting:
        raise UserError(f"confirm {digest}: no comparison with {version.name} version {version.version} of that name waits; {known}")
    registry.tag(version, {CONFIRMED + digest: f"by {who} at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"})
    return waiting[digest]
