"""One rank of a training stage under mugv.ranks: `python -m mugv.stages.worker distributed.json`."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from mugv import stopping
from mugv.errors import EXIT_TRY_AGAIN, EXIT_USER, ServiceAwayError, StoppedError, UserError
from mugv.ledger import Ledger
from mugv.processes import end_with_runner

FAILURE = "distributed-failure.json"
"""In the work folder: what ended the first process that failed."""


def main(path: str) -> int:
    """The exit code, as mugv.ranks expects it; what the stage raised is written down for the process that waits."""
    try:
        spec = json.loads(Path(path).read_text())
    except FileNotFoundError:
        print(f"mugv-error: {path} is not here: all nodes must share the state volume (claim mugv-state, ReadWriteMany)", flush=True)
        return EXIT_USER
    try:
        _train(spec)
    except StoppedError as stopped:
        return int(str(stopped.code))
    except BaseException as error:
        code = _write_failure(Path(spec["work"]), error)
        if code == 1:
            traceback.print_exc()
        return code
    return 0


def _write_failure(work: Path, error: BaseException) -> int:
    """The exit code that `error` means. The first process tells: the others fail since one of their group is gone."""
    from mugv.store import explained

    code, text = 1, f"{type(error).__name__}: {error}"
    try:
        with explained(work):
            raise error
    except UserError as line:
        code, text = EXIT_TRY_AGAIN if isinstance(line, ServiceAwayError) else EXIT_USER, str(line)
    except BaseException:
        pass
    with suppress(OSError), (work / FAILURE).open("x") as file:
        json.dump({"code": code, "error": (text.splitlines() or [""])[0]}, file)
    return code


def _train(spec: dict[str, Any]) -> None:
    from mugv.platform.records import RunRecord
    from mugv.recipe import recipe_from_json
    from mugv.stages.base import StageContext, silent
    from mugv.stages.dit_common import is_main
    from mugv.stages.placement import check_gpus, training_pool
    from mugv.stages.progress import ProgressWriter
    from mugv.store.base import Ref

    recipe = recipe_from_json(spec["recipe"])
    check_gpus(getattr(recipe.resources, training_pool(spec["module"].rpartition(".")[2])).gpus)
    ctx = StageContext(
        recipe=recipe,
        node=spec["node"],
        index=spec["index"],
        inputs={k: Path(v) for k, v in spec["inputs"].items()},
        refs={k: Ref(**v) for k, v in spec["refs"].items()},
        out=Path(spec["out"]),
        work=Path(spec["work"]),
        progress=ProgressWriter(RunRecord(Path(spec["record"])), spec["node"]) if spec["record"] and is_main() else silent,
    )
    if is_main():
        Ledger(ctx.work).write("launched")
    metrics = importlib.import_module(spec["module"]).train(ctx)
    if is_main():
        (ctx.work / "distributed-metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    stopping.listen()
    # A rank without its launcher must not write a checkpoint beside the next try's.
    end_with_runner(signal.SIGKILL)
    sys.exit(main(sys.argv[1]))
