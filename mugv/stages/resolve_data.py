"""First task of retraining: which data a DVC revision means now, and whether anything has changed since the present champion.

Not a node of the graph: it decides whether the graph runs at all. `decide` is called by components/resolve_data.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mugv.errors import UserError
from mugv.platform.dvc_data import DataVersion, fetch, resolve
from mugv.platform.records import write_json
from mugv.recipe import Recipe, recipe_from_json, recipe_to_json
from mugv.stages.again import exit_codes
from mugv.stages.environment import RunEnvironment
from mugv.stages.graph import Keys
from mugv.stages.roots import MEMORY, Roots
from mugv.stages.run_record import begin
from mugv.stages.scan import sources_now
from mugv.store import check_volume

if TYPE_CHECKING:
    from mugv.curation.drift.compare import Sources
    from mugv.platform.registry import Version

CHANGED, UNCHANGED = "changed", "unchanged"


@dataclass(frozen=True)
class Decision:
    """Whether to train, with the reason in words."""

    decision: str
    reason: str
    recipe: Recipe
    roots: Roots
    key: str
    """Cache key of `evaluate`: equal to the champion's when neither data nor code nor recipe can have changed the result."""
    data: DataVersion | None
    sources: Sources | None = None
    """Files that were added and removed since the champion's scan; None where that is not known."""


def decide(recipe_json: str, repository: str, path: str, revision: str) -> Decision:
    """Resolve the data and compare with the champion of the recipe's model.

    With a `repository` (DVC folder or URL), the videos are `path` at `revision` ("": the working tree); without one they are
    the recipe's own. Raises UserError when the data cannot be resolved.
    """
    recipe, version = recipe_from_json(recipe_json), None
    environment = RunEnvironment.from_env()
    if repository:
        version = resolve(repository, path, revision or None)
        recipe = _with_videos(recipe, fetch(version, repository, environment.state / "data"), version)
    elif path or revision:
        raise UserError("retrain: path and revision need a repository (a folder or URL with a DVC project)")
    roots = Roots.of(recipe, environment.state)
    key = Keys(recipe, roots)["evaluate"]
    model = recipe.register_.model
    champion = _present_champion(model, environment)
    decision, reason = _compare(champion, model, roots.data, key)
    sources = _sources(champion, recipe, roots.data, environment) if champion and decision == CHANGED else None
    reason += f"; {sources.line}" if sources else ""
    return Decision(decision, reason, recipe, roots, key, version, sources)


def write(decision: Decision, path: Path) -> None:
    """The decision as JSON, for people and for lineage."""
    content = {
        "decision": decision.decision,
        "reason": decision.reason,
        "data_digest": decision.roots.data,
        "key": decision.key,
        "data": asdict(decision.data) if decision.data else None,
        "sources": asdict(decision.sources) if decision.sources else None,
    }
    write_json(path, content)


def _with_videos(recipe: Recipe, folder: Path, version: DataVersion) -> Recipe:
    data = recipe.data.model_copy(update={"videos": str(folder), "dvc_revision": version.commit or version.md5})
    return recipe.model_copy(update={"data": data})


def _compare(champion: Version | None, model: str, digest: str, key: str) -> tuple[str, str]:
    """Decision and reason. The key of `evaluate` stands for all that decides a result: data, code and recipe."""
    if champion is None:
        return CHANGED, f"{model} has no champion yet"
    since = f"since {model} version {champion.version} (champion)"
    if champion.keys.get("evaluate") == key:
        return UNCHANGED, f"neither data nor code nor recipe changed {since}: nothing to train"
    if champion.tags.get("mugv.data") != (digest or "sample footage"):
        return CHANGED, f"the data changed {since}"
    return CHANGED, f"the code or the recipe changed {since}"


def _sources(champion: Version, recipe: Recipe, digest: str, environment: RunEnvironment) -> Sources | None:
    """The files of now against those of the champion's scan, where the store still has it."""
    from mugv.curation.drift.compare import compare_sources
    from mugv.curation.sources import TABLE, read_sources_table
    from mugv.platform.champion_data import fetch_table

    if recipe.data.videos is None or champion.tags.get("mugv.data") == digest:
        return None
    with tempfile.TemporaryDirectory(dir=environment.state, prefix="compare-") as folder:
        table = fetch_table(environment.open_store(), "scan", champion.keys.get("scan", ""), (TABLE,), Path(folder))
        if table is None:
            return None
        before = {source.name: source for source in read_sources_table(table)}
    now = {source.name: source for source in sources_now(recipe, environment.state / MEMORY)}
    same = [name for name in now if name in before and now[name].digest == before[name].digest]
    recaptioned = sum(now[name].captions != before[name].captions for name in same)
    return compare_sources({n: s.digest for n, s in before.items()}, {n: s.digest for n, s in now.items()}, recaptioned)


def _present_champion(model: str, environment: RunEnvironment) -> Version | None:
    from mugv.platform.registry import Registry
    from mugv.platform.tracking import Tracking, answering

    tracking = Tracking(environment.tracking_uri) if environment.tracking_uri else Tracking.of_state(environment.state)
    with answering(tracking):
        return Registry(tracking).champion(model)


def component_main(recipe_json: str, repository: str, path: str, revision: str, output: str, recipe_output: str, roots_output: str) -> str:
    """Body of the KFP component: write the decision, the recipe with the resolved data and its roots; say and return the decision."""
    with exit_codes(waits=False):
        check_volume(RunEnvironment.from_env().state)
        decision = decide(recipe_json, repository, path, revision)
    write(decision, Path(output))
    Path(recipe_output).write_text(recipe_to_json(decision.recipe))
    Path(roots_output).write_text(decision.roots.to_json())
    environment = RunEnvironment.from_env()
    if not environment.forwarded:
        begin(environment, decision.recipe, decision.roots.data)
    if decision.data:
        environment.record().update(dvc=decision.data.to_dict())
    print(f"retrain: {decision.reason}", flush=True)
    return decision.decision
