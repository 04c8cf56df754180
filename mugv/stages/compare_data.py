"""Task of retraining between curation and training: the new clips against those that the present champion was trained on.

Not a node of the graph: its result depends on who is champion. `component_main` is the body of components/compare_data, `hold` that
of components/hold, which ends a run that must not train; a task that fails would leave no report.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mugv.errors import StoreError, UserError
from mugv.platform.records import write_json
from mugv.recipe import Recipe, recipe_from_json
from mugv.stages.again import exit_codes
from mugv.stages.environment import RunEnvironment

if TYPE_CHECKING:
    from mugv.curation.drift.compare import Comparison
    from mugv.curation.drift.verdict import Verdict
    from mugv.platform.registry import Registry, Version

GO_ON, HELD = "go on", "held"


@dataclass(frozen=True)
class Gate:
    """What was decided, on which comparison; None: there was nothing to compare."""

    verdict: Verdict
    comparison: Comparison | None = None

    @property
    def decision(self) -> str:
        return GO_ON if self.verdict.go_on else HELD

    def to_json(self) -> dict[str, Any]:
        found = self.comparison.to_json() if self.comparison else None
        return {"decision": self.decision, "waits": self.verdict.waits, "line": self.verdict.line, "comparison": found}

    def page(self) -> str:
        from mugv.curation.drift.page import render

        return render(self.comparison, self.verdict.line) if self.comparison else f"<p>{escape(self.verdict.line)}</p>"

    def metrics(self) -> dict[str, float]:
        """What Kubeflow's page shows of it."""
        if self.comparison is None:
            return {}
        found = self.comparison
        distances = {f"{found.score}_{c.name}": round(c.measure(found.score), 4) for c in found.columns if c.distance}
        counts = {f"sources_{what}": float(count) for what, count in found.sources.counts.items()}
        return {
            "drifted": float(len(found.drifted)),
            "clips": float(found.rows[1]),
            "clips_champion": float(found.rows[0]),
            **counts,
            **distances,
        }


def decide(recipe: Recipe, key: str, environment: RunEnvironment) -> Gate:
    """Compare the clip set under the cache key `key` with the champion's. A comparison that waits is remembered with the champion."""
    from mugv.curation.drift.verdict import Verdict
    from mugv.platform.registry import Registry
    from mugv.platform.tracking import Tracking, answering

    model = recipe.register_.model
    tracking = Tracking(environment.tracking_uri) if environment.tracking_uri else Tracking.of_state(environment.state)
    with answering(tracking):
        registry = Registry(tracking)
        champion = registry.champion(model)
        if champion is None:
            return Gate(Verdict(True, False, f"{model} has no champion yet: nothing to compare with"))
        return _against(champion, registry, recipe, key, environment)


def _against(champion: Version, registry: Registry, recipe: Recipe, key: str, environment: RunEnvironment) -> Gate:
    from mugv.curation.drift.compare import compare
    from mugv.curation.drift.verdict import asked, judge
    from mugv.platform.champion_data import clip_table, confirmed, hold

    settings, store = recipe.retrain.drift, environment.open_store()
    name = f"{champion.name} version {champion.version} (champion)"
    environment.state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=environment.state, prefix="compare-") as folder:
        new = clip_table(store, key, Path(folder) / "new")
        if new is None:
            raise StoreError("compare_data: the new clip set is not in the store; run again")
        old = clip_table(store, champion.keys.get("curate", ""), Path(folder) / "old")
        found = compare(old, new, name, settings) if old else None
        if found is None:
            digest = hashlib.sha256(f"{name} {key}".encode()).hexdigest()[:16]
            line = f"the clips of {name} are gone from the store {store.uri}: nothing can be compared"
            verdict = asked(settings.on_missing, "on_missing", line, digest, confirmed(champion, digest))
        else:
            digest = found.digest
            verdict = judge(found, settings, confirmed(champion, digest))
    if verdict.waits:
        hold(registry, champion, digest, verdict.line)
    return Gate(verdict, found)


def component_main(recipe_json: str, clips: str, comparison: str, report: str) -> tuple[str, dict[str, float]]:
    """Body of the KFP component: write comparison and report; say and return the decision, and metrics. `clips`: the manifest's file."""
    from mugv.curation.drift.verdict import Verdict

    # Everything that would read the clips is in the store: nothing will be trained on them.
    gate = Gate(Verdict(True, False, "nothing is left to train on these clips"))
    with exit_codes(waits=False):
        recipe, manifest = recipe_from_json(recipe_json), json.loads(Path(clips).read_text())
        if manifest["digest"]:
            gate = decide(recipe, manifest["key"], RunEnvironment.from_env())
    write_json(Path(comparison), gate.to_json())
    Path(report).write_text(gate.page())
    print(f"compare data: {gate.verdict.line}", flush=True)
    return gate.decision, gate.metrics()


def hold(comparison: str) -> None:
    """End a run that must not train, with the comparison's line."""
    with exit_codes(waits=False):
        raise UserError(json.loads(Path(comparison).read_text())["line"])
