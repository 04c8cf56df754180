"""A recipe's pipeline on a cluster: compile it to IR, submit it once, or run it by the clock. Talks to the KFP REST API only."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mugv.errors import UserError
from mugv.recipe import Recipe

if TYPE_CHECKING:
    import kfp

Kind = Literal["train", "data", "retrain"]
RETRIES = 3
EXPERIMENT = "mugv"
_FIELDS = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 6))
_NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


def compile_pipeline(recipe: Recipe, output: str | Path, roots: Any = None, kind: Kind = "train") -> Path:
    """Write the IR of the recipe's pipeline to `output` (.yaml); returns the path.

    `roots`: what cache keys start from (mugv.stages.roots.Roots); the keys are given to KFP for each task. None leaves caching to the
    store, which is right when the data is not readable here, and always for `retrain`, whose data changes between runs. Raises UserError
    for a wrong suffix.
    """
    return _compiled(_pipeline(recipe, roots, kind), Path(output))


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


def submit(recipe: Recipe, endpoint: str | None = None, roots: Any = None, kind: Kind = "train") -> str:
    """Start one run of the recipe's pipeline; returns its run id. Raises UserError without an endpoint or when it does not answer."""
    host = resolve_endpoint(endpoint)
    with tempfile.TemporaryDirectory() as folder:
        package = compile_pipeline(recipe, Path(folder) / "pipeline.yaml", roots, kind)
        with _answering(host):
            client = _client(host)
            run = client.create_run_from_pipeline_package(
                str(package), arguments={}, run_name=f"{recipe.name}-{kind}", experiment_name=EXPERIMENT
            )
    return str(run.run_id)


def schedule(recipe: Recipe, endpoint: str | None, cron: str, kind: Kind = "retrain", data: dict[str, str] | None = None) -> str:
    """Run the recipe's pipeline by `cron` (six fields, seconds first), one at a time, without catch-up; returns the id.

    `data`: for `retrain`, repository, path and revision of the DVC project that holds the videos; None: the recipe's own data.

    Raises UserError for a wrong cron expression before anything is sent.
    """
    check_cron(cron)
    host = resolve_endpoint(endpoint)
    with tempfile.TemporaryDirectory() as folder:
        package = _compiled(_pipeline(recipe, None, kind, data), Path(folder) / "pipeline.yaml")
        with _answering(host):
            client = _client(host)
            experiment = client.create_experiment(EXPERIMENT)
            job = client.create_recurring_run(
                experiment_id=experiment.experiment_id,
                job_name=f"{recipe.name}-{kind}",
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                pipeline_package_path=str(package),
            )
    return str(job.recurring_run_id)


def resolve_endpoint(endpoint: str | None) -> str:
    """The KFP endpoint given, or that of KFP_ENDPOINT."""
    host = endpoint or os.environ.get("KFP_ENDPOINT", "")
    if not host:
        raise UserError("no KFP endpoint: give --endpoint http://HOST:PORT or set KFP_ENDPOINT")
    if not re.match(r"https?://[^/\s]+", host):
        raise UserError(f"KFP endpoint {host!r}: expected a URL such as http://localhost:8888")
    return host.rstrip("/")


def check_cron(expression: str) -> None:
    """Raise UserError unless `expression` has the six fields of a KFP schedule and every value is in range."""
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        hint = f'; KFP counts seconds first: "0 {expression.strip()}"' if len(fields) == 5 else ""
        raise UserError(f"cron {expression!r}: expected 6 fields (second minute hour day month weekday), got {len(fields)}{hint}")
    for text, (name, low, high) in zip(fields, _FIELDS, strict=True):
        for item in text.split(","):
            if not _valid(item, name, low, high):
                raise UserError(f"cron {expression!r}: {name} {item!r} is not *, ?, a value from {low} to {high}, a range or a step")


def _valid(item: str, name: str, low: int, high: int) -> bool:
    span, slash, step = item.partition("/")
    if slash and not (step.isdigit() and int(step) > 0):
        return False
    if span == "*" or (span == "?" and name.startswith("day") and not slash):
        return True
    first, dash, last = span.partition("-")
    values = [_value(text, name, low) for text in ([first, last] if dash else [first])]
    return all(v is not None and low <= v <= high for v in values) and values == sorted(values, key=lambda v: v or 0)


def _value(text: str, name: str, low: int) -> int | None:
    names = _NAMES.get(name, [])
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) if text.isdigit() else None


def _pipeline(recipe: Recipe, roots: Any, kind: Kind, data: dict[str, str] | None = None) -> Any:
    if kind == "retrain":
        from pipelines.retrain import build_pipeline as build_retrain

        return build_retrain(recipe, **(data or {}), retries=RETRIES)
    if kind == "data":
        from pipelines.data import build_pipeline as build_data

        return build_data(recipe, roots, RETRIES)
    from pipelines.train import build_pipeline

    return build_pipeline(recipe, roots, RETRIES)


def _client(host: str) -> kfp.Client:
    import kfp

    return kfp.Client(host=host, namespace=os.environ.get("KFP_NAMESPACE", "kubeflow"), existing_token=os.environ.get("KFP_TOKEN"))


@contextmanager
def _answering(host: str) -> Iterator[None]:
    """Turn a refused connection or an error answer into one line."""
    import kfp_server_api
    import urllib3

    try:
        yield
    except (urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise UserError(f"KFP endpoint {host} does not answer ({type(error).__name__}); check --endpoint or KFP_ENDPOINT") from error
    except kfp_server_api.ApiException as error:
        raise UserError(f"KFP endpoint {host} refused the request: {error.status} {error.reason}") from error
