"""Runs one node of the graph: found in the store it is a hit, otherwise the stage works in `work/<key>/<token>` and is published.

KFP component bodies call `component_main`; `mugv stage` and tests call `run_node`. A hit imports neither torch nor mlflow.
A stage that dies leaves its work behind, and the next try takes it over (mugv.platform.claim) and goes on from there.
"""

from __future__ import annotations

import atexit
import importlib
import json
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mugv.errors import ServiceAwayError, StoppedError, StoreError, UserError
from mugv.platform.claim import Claim, claimed
from mugv.platform.lineage import in_image
from mugv.platform.records import RunRecord, made_by, told, write_json
from mugv.platform.system_metrics import sampled
from mugv.processes import end_with_runner
from mugv.recipe import Recipe, recipe_from_json
from mugv.redact import RedactingFormatter, redact, show_uncaught
from mugv.stages.again import exit_codes, remembered, settings
from mugv.stages.base import StageContext
from mugv.stages.code_digest import code_digest
from mugv.stages.earlier import Earlier
from mugv.stages.environment import RunEnvironment
from mugv.stages.graph import SHARD_INPUTS, Keys, Node, build_graph, is_needed, made_with, of_shards
from mugv.stages.pages import add_pages, show
from mugv.stages.placement import check_gpus, task_pool
from mugv.stages.progress import ProgressWriter
from mugv.stages.roots import Roots
from mugv.stages.run_record import begin
from mugv.stages.usage import accounted
from mugv.store import Ref, Store, check_volume, explained

WITHOUT_DIGESTS = frozenset({"vae", "checkpoint", "previous", "candidates", "evaluate"})
"""Inputs whose files are hashed each time that a stage reads them. Clip shards and latents hold digests that their readers check."""

AT_ONCE = 16
"""Outputs that are asked for, and fetched, side by side."""
NAMED = 4
"""Outputs that a message names."""
_GONE = (
    "is not in {} any more; Kubeflow may have found the task in its own cache: submit again, which looks into the store first, or start"
    " the run with caching switched off"
)
_OTHER = "are not those of this run; Kubeflow found it in its cache for the recipe that was compiled: submit the changed recipe instead"

_done: list[str] = []
"""Nodes that `component_main` finished in this process."""


def output_prefix(node: Node, key: str) -> str:
    """Where in the store a node's output lies."""
    return f"{node.stage}/{key}"


def cached_nodes(names: Iterable[str], keys: Keys, store: Store) -> dict[str, Ref]:
    """Those of the named nodes whose output is in the store already, with their outputs."""
    names = list(names)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda name: store.find(output_prefix(keys.nodes[name], keys[name])), names))
    return {name: ref for name, ref in zip(names, found, strict=True) if ref}


def run_node(node_name: str, recipe: Recipe, refs: dict[str, Ref], environment: RunEnvironment, roots: Roots) -> Ref:
    """The output of a node: from the store when it is there, otherwise made now.

    An output that nothing needs (all that would read it are in the store) is not made: its digest is "".
    """
    keys = Keys(recipe, roots)
    node, key = keys.nodes[node_name], keys[node_name]
    record = environment.record()
    common = {"stage": node.stage, "index": node.index, "key": key, "started": time.time(), "pid": os.getpid(), **in_image()}
    # Whoever sends the record is the last to go: how the stage failed must be in it.
    with ExitStack() as sending, _failure_recorded(record, node_name, common), explained(environment.state):
        if not environment.forwarded and (error := remembered(record, node_name)):
            raise error
        store = environment.open_store()
        found = store.find(output_prefix(node, key))
        if found is None and not is_needed(keys.nodes, node_name, _absent(keys, store), environment.goal):
            found = Ref("", key, "")
        if found:
            status = "hit" if found.digest else "not needed"
            record.update_stage(node_name, **common, status=status, ended=time.time(), output=found.to_dict())
            return found
        _check_code(node, roots, environment)
        _check_inputs(node, refs, keys, environment)
        refs = _published(node, keys, store, environment)
        # Those of 10,000 shards would be megabytes, written again with every change of the record.
        inputs = {name: ref.to_dict() for name, ref in refs.items() if not of_shards(name)}
        record.update_stage(node_name, **common, status="running", inputs=inputs, params=_params(node, recipe))
        if not environment.forwarded and told(node.stage, recipe.data.shards):
            sending.enter_context(_sent_to_mlflow(environment, node_name))
        return _run_stage(node, recipe, refs, environment, store, key, roots)


def _published(node: Node, keys: Keys, store: Store, environment: RunEnvironment) -> dict[str, Ref]:
    """The outputs that a node reads, as the store has them now, by input name.

    By their keys and not by what the tasks before said: a merge reads 10,000 of them, more than a task's arguments can name; and a task
    that Kubeflow found in its own cache may name an output that was removed since, or made anew.
    """
    found = cached_nodes(node.inputs.values(), keys, store)
    absent = [source for source in node.inputs.values() if source not in found]
    if absent:
        more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
        was = "was removed from the store during the run; run again" if environment.forwarded else _GONE.format(store.uri)
        raise StoreError(f"stage {node.name}: the output of {', '.join(absent[:NAMED])}{more} {was}")
    return {name: found[source] for name, source in node.inputs.items()}


def _absent(keys: Keys, store: Store) -> Callable[[str], bool]:
    return lambda name: store.find(output_prefix(keys.nodes[name], keys[name])) is None


def _run_stage(node: Node, recipe: Recipe, refs: dict[str, Ref], environment: RunEnvironment, store: Store, key: str, roots: Roots) -> Ref:
    with claimed(environment.state / "work" / key) as claim:
        found = store.find(output_prefix(node, key))
        if found is None:
            return _work(node, recipe, refs, environment, store, key, claim, roots)
        # Another try, or another run with the same key, made it meanwhile.
        environment.record().update_stage(node.name, status="hit", ended=time.time(), output=found.to_dict())
        claim.remove()
        return found


def _work(
    node: Node, recipe: Recipe, refs: dict[str, Ref], environment: RunEnvironment, store: Store, key: str, claim: Claim, roots: Roots
) -> Ref:
    if node.pool != "data":
        check_gpus(task_pool(recipe, node).gpus)
    work, out, resumed = claim.work, claim.out, claim.resumed
    out.mkdir()
    record = environment.record()
    record.update_stage(node.name, work=str(work), resumed=resumed)
    with accounted(work, record, node, recipe) as ledger:
        inputs = _fetched(refs, store)
        ledger.write("inputs")
        progress = ProgressWriter(record, node.name)
        earlier = Earlier(store, node.stage, made_with(node, recipe, roots), work) if node.stage in SHARD_INPUTS else None
        context = StageContext(recipe, node.name, node.index, inputs, refs, out, work, progress, earlier, roots)
        began = time.perf_counter()
        with sampled(record, node.name):
            metrics = importlib.import_module(f"mugv.stages.{node.stage}").run(context)
        seconds = time.perf_counter() - began
        add_pages(context)
        ref = store.publish(out, output_prefix(node, key), key)
    _keep_curves(work, record.curves(node.name))
    record.update_stage(
        node.name,
        status="resumed" if resumed else "ran",
        ended=time.time(),
        stage_seconds=round(seconds, 3),
        metrics={name: float(value) for name, value in (metrics or {}).items()},
        output=ref.to_dict(),
    )
    record.remember_maker(node.name, key)
    claim.remove()
    return ref


def _fetched(refs: dict[str, Ref], store: Store) -> dict[str, Path]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda name: store.fetch(refs[name], verify=name in WITHOUT_DIGESTS), refs)
        return dict(zip(refs, found, strict=True))


def _check_code(node: Node, roots: Roots, environment: RunEnvironment) -> None:
    """Else this stage would publish what other code made under a key that stands for the code of the run."""
    if code_digest(node.code) == roots.code[node.stage]:
        return
    if environment.forwarded:
        raise UserError(f"stage {node.name}: its code changed while the run was going on; run again")
    raise UserError(
        f"stage {node.name}: this image holds other code than the pipeline was compiled with; compile and submit with the code of the"
        " image, or build the images of the code that compiled it and name them under resources"
    )


def _check_inputs(node: Node, refs: dict[str, Ref], keys: Keys, environment: RunEnvironment) -> None:
    absent = sorted(name for name in node.inputs if name not in refs and not of_shards(name))
    if absent:
        raise UserError(f"stage {node.name}: input {', '.join(absent)} is missing; it reads {', '.join(sorted(node.inputs))}")
    stale = sorted(source for name, source in node.inputs.items() if name in refs and refs[name].key != keys[source])
    if stale:
        # Else this stage would publish what old code made under a key that stands for the new code.
        changed = "changed while the run was going on; run again" if environment.forwarded else _OTHER
        raise UserError(f"stage {node.name}: recipe, code or data of {', '.join(stale)} {changed}")


def _params(node: Node, recipe: Recipe) -> dict[str, Any]:
    """The node's part of the recipe, flattened to dotted names."""
    from mugv.recipe.load import part

    flat: dict[str, Any] = {}
    for path in (*node.parts, *node.placement):
        if not path.endswith(".expand.factor"):
            _flatten(path, part(recipe, path), flat)
    return {name: redact(value) if isinstance(value, str) else value for name, value in flat.items()}


def _flatten(path: str, value: Any, flat: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, child in value.items():
            _flatten(f"{path}.{name}", child, flat)
    else:
        flat[path] = value


def _keep_curves(work: Path, folder: Path) -> None:
    """Metric files outlive the work folder: what the tracker has not sent yet is sent from there."""
    for path in work.rglob("metrics.jsonl"):
        target = folder / path.relative_to(work)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


@contextmanager
def _failure_recorded(record: RunRecord, node: str, common: dict[str, Any]) -> Iterator[None]:
    """Write how a stage ended before the error goes on its way. `common`: what its record begins with."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        told = str(error) if isinstance(error, StoppedError) else "interrupted"
        _try_record(record, node, **common, status="interrupted", error=told)
        raise
    except UserError as error:
        final = {} if isinstance(error, ServiceAwayError) else {"settings": settings(record.run)}
        _try_record(record, node, **common, status="failed", error=str(error), user_error=True, **final)
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        message = redact(f"{type(error).__name__}: {error}".splitlines()[0])
        _try_record(record, node, **common, status="failed", error=message, user_error=False, traceback=redact(traceback.format_exc()))
        raise


def _try_record(record: RunRecord, node: str, **fields: Any) -> None:
    try:
        record.update_stage(node, ended=time.time(), **fields)
    except OSError as error:
        # A full disk takes the record too; the error itself still reaches the caller.
        print(f"stage {node}: its record cannot be written ({error.strerror})", file=sys.stderr)


@contextmanager
def _sent_to_mlflow(environment: RunEnvironment, node: str) -> Iterator[None]:
    """On a cluster every stage sends its own record; in a local run the process of `mugv run` does."""
    if not environment.tracking_uri:
        yield
        return
    from mugv.platform.forwarder import Forwarder
    from mugv.platform.tracking import Tracking

    with Forwarder(Tracking(environment.tracking_uri, environment.experiment), environment.record(), environment.parent, only=node):
        yield


def component_main(
    stage: str,
    index: int,
    recipe_json: str,
    inputs: dict[str, str],
    output: str,
    roots: str = "",
    pages: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Body of every KFP component: read the inputs' manifests, run the node, write the output's manifest and return it without `roots`.

    A manifest is a JSON file {"uri", "key", "digest", "stage", "node", "roots"}. `roots`: see mugv.stages.roots; "": those of the
    inputs, and a task without inputs finds them. `pages`: the task's KFP artifacts for people (mugv.stages.pages.show).
    """
    entered = time.time()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(RedactingFormatter("%(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    sys.excepthook = show_uncaught
    logging.getLogger("mugv").setLevel(logging.INFO)
    environment = RunEnvironment.from_env()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    # SIGHUP, which training does not defer: without its run it must not write beside the next one.
    end_with_runner(signal.SIGHUP)
    in_pod = getattr(sys.modules["__main__"].__spec__, "name", "") == "kfp.dsl.executor_main"
    if in_pod:
        atexit.register(_leave_without_teardown)
    with exit_codes(waits=in_pod and not environment.forwarded), explained(environment.state):
        check_volume(environment.state)
        recipe = recipe_from_json(recipe_json)
        manifests = {name: _manifest(name, Path(path)) for name, path in inputs.items()}
        node = next(n for n in build_graph(recipe) if n.stage == stage and n.index == index)
        refs = {name: Ref(m["uri"], m["key"], m["digest"]) for name, m in manifests.items() if name in node.inputs}
        found = _roots(roots, recipe, manifests, environment)
        if not environment.forwarded:
            begin(environment, recipe, found.data)
        ref = run_node(node.name, recipe, refs, environment, found)
        show(pages or {}, stage, _metrics(environment, node.name, ref.key), ref, environment)
        manifest = {**asdict(ref), "stage": stage, "node": node.name}
        write_json(Path(output), {**manifest, "roots": asdict(found)})
        timing = {"process": _process_start(), "entered": entered, "left": time.time()}
        environment.record().update_stage(node.name, timing=timing)
        _done.append(node.name)
        return manifest


def _metrics(environment: RunEnvironment, node: str, key: str) -> dict[str, float]:
    """What the stage measured, in this run or in the one that made its output."""
    mine = environment.record().stage(node)
    return dict((mine if "metrics" in mine else made_by(environment.state, key)).get("metrics", {}))


def _manifest(name: str, path: Path) -> dict[str, Any]:
    """What an earlier task wrote about its output."""
    try:
        found = json.loads(path.read_bytes())
        if not all(isinstance(found[field], str) for field in ("uri", "key", "digest")) or not isinstance(found["roots"], dict):
            raise TypeError(found)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"input {name}: {path} is not the manifest of an earlier task's output; run again") from None
    return dict(found)


def _roots(given: str, recipe: Recipe, manifests: dict[str, dict[str, Any]], environment: RunEnvironment) -> Roots:
    """Those of the pipeline; else those that the run's first task found."""
    if given:
        return Roots.parse(given, recipe)
    handed = {name: Roots.parse(json.dumps(manifest["roots"]), recipe) for name, manifest in manifests.items()}
    first, *others = handed.values() or [Roots.of(recipe, environment.state)]
    if any(roots != first for roots in others):
        raise UserError(f"inputs {', '.join(handed)} were made for other data, files or code than one another; run again")
    return first


def _stop(number: int, frame: object) -> None:
    """End the stage once: a second signal must not interrupt the writing of its record."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _process_start() -> float:
    """Unix time at which this process began, to 10 ms where /proc tells it."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except FileNotFoundError:
        import psutil

        return float(psutil.Process().create_time())
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))


def _leave_without_teardown() -> None:
    """Exit handler of a KFP task's process: taking torch and its friends apart costs up to a second and frees nothing that matters.

    Registered first, so it runs after all other exit handlers; a process that ends with an error takes the usual way.
    """
    if getattr(sys, "last_value", None) is None and _done:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
