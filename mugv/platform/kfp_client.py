"""A recipe's pipeline on a cluster: compile it to IR, submit it once, or run it by the clock. Talks to the KFP REST API only."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from mugv.errors import UserError
from mugv.platform.cron import check_cron
from mugv.platform.kfp_api import AwayError, KfpApi, connect
from mugv.recipe import Recipe

Kind = Literal["train", "data", "retrain"]
EXPERIMENT = "mugv"
SERVICE_ACCOUNT = "mugv-pipeline"
"""Account that the manifests make for tasks."""
_LISTS = {"runs": "runs", "recurringruns": "recurringRuns"}
"""Resource -> name of the list in an answer."""


def compile_pipeline(
    recipe: Recipe, output: str | Path, roots: Any = None, kind: Kind = "train", data: dict[str, str] | None = None
) -> Path:
    """Write the IR of the recipe's pipeline to `output` (.yaml); returns the path.

    `roots`: what cache keys start from (mugv.stages.roots.Roots); the keys are given to KFP for each task. None leaves caching to the
    store, which is right when the data is not readable here, and always for `retrain`, whose data changes between runs. `data`: see
    schedule. Raises UserError for a wrong suffix.
    """
    return _compiled(_pipeline(recipe, roots, kind, data), Path(output))


def _compiled(pipeline: Any, output: Path) -> Path:
    from kfp import compiler

    if output.suffix not in {".yaml", ".yml"}:
        raise UserError(f"compile: output {output} must end in .yaml")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(pipeline, str(output))
    except OSError as error:
        raise UserError(f"compile: {output} cannot be written ({error.strerror})") from None
    return output


def submit(
    recipe: Recipe,
    endpoint: str | None = None,
    roots: Any = None,
    kind: Kind = "train",
    data: dict[str, str] | None = None,
    namespace: str | None = None,
    service_account: str = SERVICE_ACCOUNT,
    uncached: Collection[str] = (),
) -> str:
    """Start one run of the recipe's pipeline; returns its run id.

    `data`: for `retrain`, see schedule. `namespace`: the user's, None: KFP_NAMESPACE. `uncached`: nodes that KFP must
    not look for in its cache, since their output is not in the store. Raises UserError, and leaves nothing behind, when the
    endpoint does not answer or refuses.
    """
    spec = _spec(_pipeline(recipe, roots, kind, data, uncached))
    api = connect(endpoint, namespace)
    made = _send(api, "runs", _body(recipe, kind, spec, service_account))
    return str(made["run_id"])


def schedule(
    recipe: Recipe,
    endpoint: str | None,
    cron: str,
    kind: Kind = "retrain",
    data: dict[str, str] | None = None,
    namespace: str | None = None,
    service_account: str = SERVICE_ACCOUNT,
) -> str:
    """Run the recipe's pipeline by `cron` (six fields, seconds first), one at a time, without catch-up; returns the id.

    `data`: for `retrain`, repository, path and revision of the DVC project that holds the videos; None: the recipe's own data.

    Raises UserError for a wrong cron expression before anything is sent; and as `submit` does.
    """
    check_cron(cron)
    spec = _spec(_pipeline(recipe, None, kind, data))
    api = connect(endpoint, namespace)
    times = {"trigger": {"cron_schedule": {"cron": cron}}, "max_concurrency": 1, "no_catchup": True, "mode": "ENABLE"}
    made = _send(api, "recurringruns", {**_body(recipe, kind, spec, service_account), **times})
    return str(made["recurring_run_id"])


def _body(recipe: Recipe, kind: Kind, spec: dict[str, Any], service_account: str) -> dict[str, Any]:
    return {
        "display_name": f"{recipe.name}-{kind}",
        # What was made although its answer was lost is found by this.
        "description": f"mugv {uuid4().hex}",
        "pipeline_spec": spec,
        "runtime_config": {"parameters": {}},
        "service_account": service_account,
    }


def _spec(pipeline: Any) -> dict[str, Any]:
    """The IR as the API takes it: the pipeline, and beside it what is for Kubernetes."""
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        parts = list(yaml.safe_load_all(_compiled(pipeline, Path(folder) / "pipeline.yaml").read_text()))
    return {"pipeline_spec": parts[0], "platform_spec": parts[1]} if len(parts) > 1 else dict(parts[0])


def _send(api: KfpApi, resource: str, body: dict[str, Any]) -> dict[str, Any]:
    """Make it in the experiment; an experiment that was made for it goes again when it is refused."""
    experiment, fresh = _experiment(api)
    try:
        return api.post(resource, {**body, "experiment_id": experiment})
    except AwayError as error:
        try:
            found = api.named(resource, _LISTS[resource], body["display_name"], experiment_id=experiment)
        except UserError:
            raise AwayError(
                f"{error}; {body['display_name']!r} may have been made all the same: look in experiment {EXPERIMENT}"
            ) from error
        for each in found:
            if each.get("description") == body["description"]:
                return each
        raise _taken_back(api, experiment, error) if fresh else error from None
    except UserError as error:
        raise _taken_back(api, experiment, error) if fresh else error from None


def _experiment(api: KfpApi) -> tuple[str, bool]:
    """Id of the experiment, and whether it was made now."""
    found = api.named("experiments", "experiments", EXPERIMENT)
    if not found:
        place = {"namespace": api.namespace} if api.namespace else {}
        return str(api.post("experiments", {"display_name": EXPERIMENT, **place})["experiment_id"]), True
    live = next((each for each in found if each.get("storage_state") != "ARCHIVED"), None)
    if live is None:
        live = found[0]
        api.post(f"experiments/{live['experiment_id']}:unarchive", {})
    return str(live["experiment_id"]), False


def _taken_back(api: KfpApi, experiment: str, error: UserError) -> UserError:
    """Remove the experiment that was made before the error; the error, with what is left behind."""
    try:
        api.delete(f"experiments/{experiment}")
    except UserError:
        return UserError(f"{error}; the experiment {EXPERIMENT} that was made for it is left behind")
    return error


def platform_spec(recipe: Recipe, kind: Kind) -> dict[str, Any]:
    """What the compiled tasks ask of Kubernetes, by executor."""
    spec: dict[str, Any] = _spec(_pipeline(recipe, None, kind))["platform_spec"]["platforms"]["kubernetes"]
    return spec


def _pipeline(recipe: Recipe, roots: Any, kind: Kind, data: dict[str, str] | None = None, uncached: Collection[str] = ()) -> Any:
    if kind == "retrain":
        from pipelines.retrain import build_pipeline as build_retrain

        return build_retrain(recipe, **(data or {}), retry=True)
    if kind == "data":
        from pipelines.data import build_pipeline as build_data

        return build_data(recipe, roots, retry=True, uncached=uncached)
    from pipelines.train import build_pipeline

    return build_pipeline(recipe, roots, retry=True, uncached=uncached)
