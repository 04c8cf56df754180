"""One process of a training stage under torchrun: `python -m mugv.stages.worker distributed.json`."""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from mugv.errors import StoreError, UserError

FAILURE = "distributed-failure.json"
"""In the work folder: what ended the first process that failed."""


def main(path: str) -> None:
    """Raises what the stage raises, after writing it down for the process that waits."""
    from mugv.platform.processes import end_with_runner

    end_with_runner()
    spec = json.loads(Path(path).read_text())
    try:
        _train(spec)
    except BaseException as error:
        _write_failure(Path(spec["work"]), error)
        raise


def _write_failure(work: Path, error: BaseException) -> None:
    """The first one tells: the others fail since a process of their group is gone."""
    from mugv.store import explained

    kind, text = "user" if isinstance(error, UserError) else "", str(error)
    try:
        with explained(work):
            raise error
    except StoreError as line:
        kind, text = "user", str(line)
    except BaseException:
        text = text if kind else f"{type(error).__name__}: {text}"
    with suppress(OSError), (work / FAILURE).open("x") as file:
        json.dump({"user": bool(kind), "error": (text.splitlines() or [""])[0]}, file)


def _train(spec: dict[str, Any]) -> None:
    from mugv.platform.records import RunRecord
    from mugv.recipe import recipe_from_json
    from mugv.stages.base import StageContext, silent
    from mugv.stages.dit_common import is_main
    from mugv.stages.progress import ProgressWriter
    from mugv.store.base import Ref

    ctx = StageContext(
        recipe=recipe_from_json(spec["recipe"]),
        node=spec["node"],
        index=spec["index"],
        inputs={k: Path(v) for k, v in spec["inputs"].items()},
        refs={k: Ref(**v) for k, v in spec["refs"].items()},
        out=Path(spec["out"]),
        work=Path(spec["work"]),
        progress=ProgressWriter(RunRecord(Path(spec["record"])), spec["node"]) if spec["record"] and is_main() else silent,
    )
    metrics = importlib.import_module(spec["module"]).train(ctx)
    if is_main():
        (ctx.work / "distributed-metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main(sys.argv[1])
