"""One stage on plain folders, outside of store and cache: what `mugv stage` and dvc.yaml run. A killed stage goes on here too."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

from mugv.errors import UserError
from mugv.recipe import Recipe
from mugv.stages.base import StageContext
from mugv.stages.graph import build_graph
from mugv.store import Ref, explained
from mugv.store.manifest import Manifest


def run_by_hand(name: str, recipe: Recipe, inputs: dict[str, Path], out: Path) -> dict[str, float]:
    """The stage's metrics; its output replaces `out` in one step. The scratch folder is `<out>.work`, removed at the end."""
    nodes = {node.name: node for node in build_graph(recipe)}
    if name not in nodes:
        raise UserError(f"stage {name}: not in this recipe's graph; it has {', '.join(nodes)}")
    node = nodes[name]
    if set(inputs) != set(node.inputs):
        raise UserError(f"stage {name}: reads --input {', '.join(node.inputs) or '(nothing)'}, got {', '.join(inputs) or 'nothing'}")
    out = out.absolute()
    work, fresh = out.with_name(f"{out.name}.work"), out.with_name(f"{out.name}.new")
    refs = {key: Ref(path.as_uri(), "", Manifest.of_folder(path, "").digest) for key, path in inputs.items()}
    with explained(out):
        shutil.rmtree(fresh, ignore_errors=True)
        for folder in (work, fresh):
            folder.mkdir(parents=True, exist_ok=True)
        metrics = importlib.import_module(f"mugv.stages.{node.stage}").run(
            StageContext(recipe, name, node.index, inputs, refs, fresh, work)
        )
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
        shutil.rmtree(work, ignore_errors=True)
    return {key: float(value) for key, value in (metrics or {}).items()}
