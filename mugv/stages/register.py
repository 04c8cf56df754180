"""Stage `register`: a model version with its metrics and lineage, and the gate that decides whether it becomes `champion`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mugv.errors import UserError
from mugv.recipe import digest
from mugv.redact import redact
from mugv.stages.base import StageContext
from mugv.stages.environment import RunEnvironment
from mugv.stages.execute import cached_nodes
from mugv.stages.graph import SHARD_INPUTS, Keys
from mugv.stages.roots import Roots

if TYPE_CHECKING:
    from mugv.platform.registry import GateDecision, Registry, Version

AWAY = "{where}: the version cannot be registered ({reason}); all else is kept, run again when it answers"


def run(ctx: StageContext) -> dict[str, float]:
    """Inputs: evaluate, checkpoint, vae, latents, clips. Output: registered.json."""
    from mugv.platform.tracking import answering

    environment = RunEnvironment.from_env()
    evaluation = json.loads((ctx.inputs["evaluate"] / "metrics.json").read_text())
    with answering(tracking := _tracking(environment), AWAY):
        environment = replace(environment, parent=_parent(tracking, environment))
        result = _register(ctx, environment, describe_lineage(ctx, environment), evaluation)
    (ctx.out / "registered.json").write_text(json.dumps(result, indent=1) + "\n")
    return {"version": float(result["version"]), "champion": float(result["champion"])}


def _parent(tracking: Any, environment: RunEnvironment) -> str:
    """MLflow's run of the pipeline: on a cluster the tasks find it themselves."""
    from mugv.platform.parent_run import parent_run

    record = environment.record()
    if environment.forwarded or not (record.folder / "run.json").is_file():
        return environment.parent
    return parent_run(tracking, record, environment.parent)


def _register(ctx: StageContext, environment: RunEnvironment, lineage: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
    from mugv.evaluation.paired import FILE, read_results
    from mugv.platform.model_card import FILE as CARD
    from mugv.platform.model_card import card
    from mugv.platform.registry import Registry, decide, log_version

    tracking = _tracking(environment)
    name, gate = ctx.recipe.register_.model, ctx.recipe.register_.gate
    metrics, results = numbers(evaluation), read_results(ctx.inputs["evaluate"] / FILE)
    registry = Registry(tracking.uri)
    # A run that died after registering must not register twice.
    key = lineage["nodes"]["register"]["key"]
    version = next((v for v in registry.versions(name) if v.keys.get("register") == key), None)
    if version is None:
        artifacts = {name: ctx.inputs[name] for name in ("checkpoint", "vae")} | {"evaluation": ctx.inputs["evaluate"] / "metrics.json"}
        place = (tracking.uri, tracking.experiment, lineage["mlflow_run"])
        version = log_version(*place, name, artifacts, lineage, metrics, results, ctx.refs["clips"].to_dict())
        registry.tag(version, _tags(lineage, metrics))
    champion = registry.before(version)
    theirs = registry.results(champion) if champion else {}
    decision = decide(gate, metrics, champion, str(evaluation.get("judge_reason", "")), results, theirs)
    found = _announce(registry, version, champion, decision, metrics)
    text = card(name, version.version, lineage, metrics, decision.champion, decision.reasons)
    registry.describe(version, text, CARD)
    (ctx.out / CARD).write_text(text)
    return found


def _announce(
    registry: Registry, version: Version, champion: Version | None, decision: GateDecision, metrics: dict[str, float]
) -> dict[str, Any]:
    from mugv.platform.registry import REASONS

    reasons = "; ".join(decision.reasons)
    registry.tag(version, {"mugv.gate": "passed" if decision.champion else "held back", REASONS: reasons})
    if decision.champion:
        registry.promote(version.name, version.version, "passed the gate: " + reasons)
    return {
        "model": version.name,
        "version": version.version,
        "uri": f"models:/{version.name}/{version.version}",
        "champion": decision.champion,
        "reasons": list(decision.reasons),
        "previous_champion": champion.version if champion else None,
        "metrics": metrics,
    }


def numbers(evaluation: dict[str, Any]) -> dict[str, float]:
    """The metrics of metrics.json: its numeric entries, or those under `metrics`."""
    flat = evaluation.get("metrics", evaluation)
    if not isinstance(flat, dict):
        raise UserError("metrics.json: `metrics` must be a mapping of names to numbers")
    return {k: float(v) for k, v in flat.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def describe_lineage(ctx: StageContext, environment: RunEnvironment) -> dict[str, Any]:
    """Everything that `mugv lineage` shows: run, code, recipe, data, and each node with key, digest, place and inputs."""
    from mugv.platform.lineage import git_state, image_digest

    recipe, roots = ctx.recipe, ctx.roots or Roots.of(ctx.recipe, environment.state)
    keys = Keys(recipe, roots)
    stored = cached_nodes(keys.nodes, keys, environment.open_store())
    nodes: dict[str, Any] = {}
    for name, node in keys.nodes.items():
        place = {"uri": stored[name].uri, "digest": stored[name].digest} if name in stored else {}
        nodes[name] = {"stage": node.stage, "key": keys[name], "inputs": node.inputs, **place}
    return {
        "run": environment.run,
        "mlflow_run": environment.parent,
        "git": git_state(),
        "image": image_digest(),
        "recipe": {"name": recipe.name, "digest": digest(recipe)},
        "data": {
            "videos": redact(recipe.data.videos) if recipe.data.videos else None,
            "digest": roots.data,
            "dvc_revision": recipe.data.dvc_revision,
            "dvc": environment.record().read().get("dvc", {}),
        },
        "nodes": nodes,
    }


def _tags(lineage: dict[str, Any], metrics: dict[str, float]) -> dict[str, str]:
    from mugv.platform.registered_files import DIGEST
    from mugv.platform.registry import KEY, METRIC

    nodes = lineage["nodes"]
    sources = nodes["register"]["inputs"]
    tags = {
        "mugv.run": lineage["run"],
        "mugv.mlflow_run": lineage["mlflow_run"],
        "mugv.git.commit": lineage["git"]["commit"],
        "mugv.git.dirty": str(lineage["git"]["dirty"]).lower(),
        "mugv.image": lineage["image"],
        "mugv.recipe": lineage["recipe"]["digest"],
        "mugv.data": lineage["data"]["digest"] or "sample footage",
        "mugv.dvc_revision": lineage["data"]["dvc_revision"] or "",
        **{f"mugv.dvc.{name}": value for name, value in lineage["data"]["dvc"].items()},
        **{DIGEST + name: nodes[source].get("digest", "") for name, source in sources.items()},
        # Each tag is a call to MLflow, and there may be 10,000 shards: the lineage has their keys.
        **{KEY + name: node["key"] for name, node in nodes.items() if node["stage"] not in SHARD_INPUTS},
        **{METRIC + name: repr(value) for name, value in metrics.items()},
    }
    return {name: value for name, value in tags.items() if value}


def _tracking(environment: RunEnvironment) -> Any:
    from mugv.platform.tracking import Tracking

    if environment.tracking_uri:
        return Tracking(environment.tracking_uri, environment.experiment)
    return Tracking.of_state(Path(environment.state))
