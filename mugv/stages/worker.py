"""One process of a training stage under torchrun: `python -m mugv.stages.worker distributed.json`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main(path: str) -> None:
    from mugv.platform.records import RunRecord
    from mugv.recipe import recipe_from_json
    from mugv.stages.base import StageContext, silent
    from mugv.stages.dit_common import is_main
    from mugv.stages.progress import ProgressWriter
    from mugv.store.base import Ref

    spec = json.loads(Path(path).read_text())
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
