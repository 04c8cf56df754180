"""Earlier outputs of the same stage, recipe and code that were made from other inputs: what they hold of the same things is taken over.

A video added to 10,000 changes the inputs of every shard; this way one is decoded. A stage that can take things over says in
`contents.json` of its output what it holds: {"made_with": ..., "holds": {thing: ...}}.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mugv.errors import StoreError
from mugv.store.base import Store

logger = logging.getLogger(__name__)
CONTENTS = "contents.json"

Output = tuple[dict[str, str], Callable[[], Path | None]]
"""What an output holds, and its folder when asked for; None, said in the log, when it cannot be had."""


@dataclass(frozen=True)
class Earlier:
    """The outputs of a stage in a store."""

    store: Store
    stage: str
    made_with: str
    """See mugv.stages.graph.made_with."""
    scratch: Path

    def outputs(self) -> Iterator[Output]:
        """Those made with the same recipe and code, by key."""
        for name in self.store.list(f"{self.stage}/"):
            prefix, _, file = name.rpartition("/")
            if file == CONTENTS and (holds := self._holds(name)):
                yield holds, lambda prefix=prefix: self._folder(prefix)  # type: ignore[misc]

    def write(self, out: Path, holds: dict[str, str]) -> None:
        """Say what the output in `out` holds."""
        (out / CONTENTS).write_text(json.dumps({"made_with": self.made_with, "holds": holds}, indent=1, sort_keys=True) + "\n")

    def _holds(self, name: str) -> dict[str, str]:
        copy = self.scratch / f"earlier-{CONTENTS}"
        try:
            self.store.get_file(name, copy)
            tree = json.loads(copy.read_text())
            return dict(tree["holds"]) if tree["made_with"] == self.made_with else {}
        except (StoreError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("%s: nothing is taken over (%s)", name, error)
            return {}
        finally:
            copy.unlink(missing_ok=True)

    def _folder(self, prefix: str) -> Path | None:
        try:
            ref = self.store.find(prefix)
            return self.store.fetch(ref) if ref else None
        except StoreError as error:
            logger.warning("%s: nothing is taken over (%s)", prefix, error)
            return None
