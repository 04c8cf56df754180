"""One stage on plain folders, outside of store and cache: what `mugv stage` and dvc.yaml run. A killed stage goes on here too.

Beside the output DIR lies DIR.work while the stage runs, and after it was killed:
    pid        the lock: one process works on DIR
    made.json  what the work is made of: recipe, inputs, code. Work of something else is never gone on with
    scratch/   the stage's own, with its checkpoints
    out/       the output before it is whole; it becomes DIR in one step
DIR has the manifest.json of a store's outputs; by it the stage knows what it wrote and may replace.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mugv.durable import beside, replace_text, sync_tree
from mugv.errors import UserError
from mugv.json_lines import shown
from mugv.platform.lock import file_lock
from mugv.recipe import Recipe
from mugv.recipe.load import part
from mugv.stages.base import StageContext
from mugv.stages.graph import Node, build_graph, made_of
from mugv.stages.roots import Roots
from mugv.store import Ref, explained, manifest
from mugv.store.manifest import Manifest

LOCK, MADE = "pid", "made.json"
NAMED = 4
"""Files or differences that a message names."""


def run_by_hand(name: str, recipe: Recipe, inputs: dict[str, Path], out: Path, force: bool = False) -> dict[str, float]:
    """The stage's metrics; its output replaces `out` in one step.

    Raises UserError when another process works on `out`, when `out` holds what this stage did not write, and when its unfinished work
    is of another recipe, other inputs or other code. `force`: the last two are replaced.
    """
    nodes = {node.name: node for node in build_graph(recipe)}
    if name not in nodes:
        raise UserError(f"stage {name}: not in this recipe's graph; it has {', '.join(nodes)}")
    node, out = nodes[name], out.resolve()
    if set(inputs) != set(node.inputs):
        raise UserError(f"stage {name}: reads --input {', '.join(node.inputs) or '(nothing)'}, got {', '.join(inputs) or 'nothing'}")
    _check_place(node, inputs, out, force)
    work = _work_folder(node, out)
    refusal = f"stage {name}: process {{}} works on {out} already; wait for it or give another --out"
    with explained(out), file_lock(work / LOCK, refusal, option="--out"):
        metrics = _run(node, recipe, inputs, out, work, force)
        # Renamed first: whoever waits for the lock must not find a folder that is half gone.
        shutil.rmtree(work.rename(beside(work)))
    return {key: float(value) for key, value in (metrics or {}).items()}


def _run(node: Node, recipe: Recipe, inputs: dict[str, Path], out: Path, work: Path, force: bool) -> dict[str, float] | None:
    refs = {key: Ref(path.as_uri(), "", Manifest.of_folder(path, "").digest) for key, path in inputs.items()}
    scratch, fresh, old = work / "scratch", work / "out", work / "old"
    _bind(node, work, _made_of(node, recipe, refs), force)
    shutil.rmtree(fresh, ignore_errors=True)
    for folder in (scratch, fresh):
        folder.mkdir(exist_ok=True)
    context = StageContext(recipe, node.name, node.index, inputs, refs, fresh, scratch)
    metrics: dict[str, float] | None = importlib.import_module(f"mugv.stages.{node.stage}").run(context)
    (fresh / manifest.NAME).write_text(Manifest.of_folder(fresh, _mark(node)).to_json())
    sync_tree(fresh)
    # Again, for what was put there meanwhile.
    _check_place(node, inputs, out, force)
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    fresh.rename(out)
    return metrics


def _mark(node: Node) -> str:
    return f"by-hand/{node.name}"


def _check_place(node: Node, inputs: dict[str, Path], out: Path, force: bool) -> None:
    """UserError when writing `out` would destroy an input or what this stage did not write."""
    for key, path in inputs.items():
        if path.resolve() == out or out in path.resolve().parents or path.resolve() in out.parents:
            raise UserError(f"stage {node.name}: --out {out} and --input {key}={path} lie in one another; give another --out")
    if (out.exists() and not out.is_dir()) or out.is_mount():
        kind = "where a file system is mounted; give a folder inside" if out.is_mount() else "no folder"
        raise UserError(f"stage {node.name}: --out {out} is {kind}")
    foreign = [] if force else _foreign(node, out)
    if foreign:
        found = _few([repr(name) for name in foreign])
        raise UserError(
            f"stage {node.name}: --out {out} holds what this stage did not write ({found}); give another folder, or --force to replace it"
        )


def _foreign(node: Node, out: Path) -> list[str]:
    """Names in `out` that this stage did not write, or that were changed since."""
    try:
        written = Manifest.parse((out / manifest.NAME).read_bytes())
        own = {name: entry.bytes for name, entry in written.files.items()} if written.key == _mark(node) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        own = {}
    found = {str(path.relative_to(out)): path for path in _leaves(out)}
    if own:
        found.pop(manifest.NAME, None)
    return sorted(name for name, path in found.items() if path.is_symlink() or name not in own or path.stat().st_size != own[name])


def _leaves(folder: Path) -> Iterator[Path]:
    """All that is no folder; a link to a folder is none."""
    for root, folders, files in os.walk(folder):
        yield from (Path(root) / name for name in files)
        yield from (Path(root) / name for name in folders if (Path(root) / name).is_symlink())


def _work_folder(node: Node, out: Path) -> Path:
    """DIR.work. UserError when something lies there that no stage left."""
    work = out.with_name(f"{out.name}.work")
    there = set(os.listdir(work)) if work.is_dir() else {""} if work.exists() else set()
    if there and not there & {LOCK, MADE}:
        raise UserError(f"stage {node.name}: {work} is where this stage would work, and no stage wrote it; move it or give another --out")
    return work


def _made_of(node: Node, recipe: Recipe, refs: dict[str, Ref]) -> dict[str, Any]:
    """All that decides the output, as JSON types."""
    roots = Roots.of(recipe, nodes=[node])
    return {
        **made_of(node, recipe, roots),
        "placement": {path: part(recipe, path) for path in node.placement},
        "inputs": {name: ref.digest for name, ref in refs.items()},
        "videos": roots.data,
    }


def _bind(node: Node, work: Path, made: dict[str, Any], force: bool) -> None:
    """Write down what the work is made of. UserError naming what differs when unfinished work of something else lies there."""
    path, scratch = work / MADE, work / "scratch"
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError:
            before = {}
        different = list(_differences(before, made))
        # A stage that failed before it had anything leaves nothing that could be lost.
        if different and not force and scratch.is_dir() and os.listdir(scratch):
            raise UserError(
                f"stage {node.name}: {work} holds unfinished work of something else ({_few(different)});"
                " go on with what it was, or begin anew with --force"
            )
        if different:
            shutil.rmtree(scratch, ignore_errors=True)
    replace_text(path, json.dumps(made, indent=1, sort_keys=True) + "\n")


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """`pretrain.2.steps 400, now 3`; of what is known by its digest the name alone."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        kind, _, key = name.partition(".")
        values = f" {shown(before)}, now {shown(now)}" if kind in ("parts", "placement") else " changed"
        yield (key if kind in ("parts", "placement") else name) + values


def _few(items: list[str]) -> str:
    return "; ".join(items[:NAMED]) + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")
