"""`mugv doctor`: what a deployment lacks, a line each, with how to mend it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mugv.cli.cluster import AccountOption, NamespaceOption, PathOption, RepositoryOption, RevisionOption
from mugv.cli.common import EndpointOption, JsonOption, RecipeOption, SetOption, StateOption, print_json, read_recipe

if TYPE_CHECKING:
    from mugv.platform.doctor import Check


def doctor(
    recipe: RecipeOption = None,
    changes: SetOption = None,
    endpoint: EndpointOption = None,
    namespace: NamespaceOption = None,
    service_account: AccountOption = "mugv-pipeline",
    repository: RepositoryOption = "",
    path: PathOption = "",
    revision: RevisionOption = "",
    create_bucket: Annotated[bool, typer.Option("--create-bucket", help="Make the store's bucket where it is missing.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine, or a cluster, lacks to run a recipe. Exit code 0: nothing; 2: something."""
    from mugv.platform.doctor import examine, kubernetes, machine, services

    resolved = read_recipe(recipe, changes)
    folder = (state or Path(os.environ.get("MUGV_STATE", ".mugv"))).absolute()
    address = os.environ.get("MUGV_STORE") or str(folder / "store")
    checks: dict[str, Check] = {
        "KFP": partial(services.pipelines, endpoint, namespace),
        "store": partial(services.store, address, create_bucket),
        "MLflow": partial(services.mlflow, os.environ.get("MLFLOW_TRACKING_URI", "")),
        "cluster": partial(kubernetes.cluster, resolved, namespace, service_account),
        "state": partial(machine.state, folder),
        "GPU": machine.gpu,
        "git": machine.git,
        "DVC": partial(machine.dvc, repository, path, revision),
        "images": partial(machine.images, resolved),
        "files of the recipe": partial(machine.files, resolved),
    }
    findings = examine(checks)
    sick = sum(finding.state == "wrong" for finding in findings)
    if as_json:
        print_json({"ok": not sick, "checks": [finding.to_dict() for finding in findings]})
    else:
        for finding in findings:
            typer.echo(finding.line())
        typer.echo(f"{sick} of {len(findings)} lines are wrong" if sick else "nothing is missing")
    if sick:
        raise typer.Exit(2)
