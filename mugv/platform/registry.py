"""The model registry: versions of the generator with their lineage, the gate, and the alias `champion` with its history."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mugv.errors import UserError
from mugv.recipe.schema import Gate

CHAMPION = "champion"
HISTORY = "mugv.champion.history"
"""Tag of the registered model: the versions that were champion, oldest first, as JSON; rollback takes the last one off."""
REASONS = "mugv.gate.reasons"
"""Tag of a version: what the gate said, joined by semicolons."""
METRIC = "metric."
KEY = "mugv.key."
LINEAGE_FILE = "lineage.json"


@dataclass(frozen=True)
class Version:
    """A model version as the registry has it."""

    name: str
    version: str
    run_id: str
    tags: dict[str, str]
    source: str

    @property
    def metrics(self) -> dict[str, float]:
        return {name.removeprefix(METRIC): float(value) for name, value in self.tags.items() if name.startswith(METRIC)}

    @property
    def keys(self) -> dict[str, str]:
        """Cache key of each stage that led to this version."""
        return {name.removeprefix(KEY): value for name, value in self.tags.items() if name.startswith(KEY)}


@dataclass(frozen=True)
class GateDecision:
    """Whether `champion` moves, and why."""

    champion: bool
    reasons: tuple[str, ...]


def decide(gate: Gate, metrics: Mapping[str, float], champion: Version | None, unmeasured: str = "") -> GateDecision:
    """Every threshold must hold and `gate.compare` must be above the present champion's. `unmeasured`: why metrics are missing."""
    passed, failed = [], []
    for name, minimum in sorted(gate.minimum.items()):
        if name not in metrics:
            failed.append(f"{name} was not measured{f' ({unmeasured})' if unmeasured else ''}; at least {minimum:g} is asked")
        elif metrics[name] >= minimum:
            passed.append(f"{name} {metrics[name]:.4g} is at least {minimum:g}")
        else:
            failed.append(f"{name} {metrics[name]:.4g} is under {minimum:g}")
    better, reason = _compare(gate.compare, metrics, champion)
    (passed if better else failed).append(reason)
    return GateDecision(not failed, tuple(failed or passed))


def _compare(name: str | None, metrics: Mapping[str, float], champion: Version | None) -> tuple[bool, str]:
    if champion is None:
        return True, "there is no champion yet"
    if name is None:
        return True, f"no metric to compare with champion {champion.version} is set"
    if name not in metrics:
        return False, f"{name} was not measured, so it cannot be compared with champion {champion.version}"
    if name not in champion.metrics:
        return True, f"champion {champion.version} has no {name}"
    mine, theirs = metrics[name], champion.metrics[name]
    if mine > theirs:
        return True, f"{name} {mine:.4g} is above champion {champion.version}'s {theirs:.4g}"
    return False, f"{name} {mine:.4g} is not above champion {champion.version}'s {theirs:.4g}"


class Registry:
    """Thin over MlflowClient. Raises UserError for names and versions that are not there."""

    def __init__(self, uri: str) -> None:
        from mugv.platform.tracking import Tracking

        self.uri = uri
        self.client: Any = Tracking(uri).client

    def champion(self, name: str) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version_by_alias(name, CHAMPION))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def versions(self, name: str) -> list[Version]:
        """Newest first."""
        found = self.client.search_model_versions(f"name='{name}'")
        return sorted((_version(v) for v in found), key=lambda v: -int(v.version))

    def resolve(self, uri: str) -> Version:
        """The version that `models:/name@alias` or `models:/name/3` names."""
        parsed = urlparse(uri)
        name, at, alias = parsed.path.strip("/").partition("@")
        name, slash, number = name.partition("/")
        if parsed.scheme != "models" or not name or bool(at) == bool(slash):
            raise UserError(f"model {uri}: expected models:/NAME@champion or models:/NAME/VERSION")
        return self._by_alias(name, alias) if at else self.version(name, number)

    def _by_alias(self, name: str, alias: str) -> Version:
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version_by_alias(name, alias))
        except MlflowException:
            found = self.versions(name) if alias == CHAMPION else []
            if found:
                raise UserError(f"model {name}: there is no champion; {held_back(found[0])}") from None
            raise UserError(f"model {name}: no version has the alias {alias!r}; {self._known(name)}") from None

    def version(self, name: str, number: str) -> Version:
        for version in self.versions(name):
            if version.version == number:
                return version
        raise UserError(f"model {name}: no version {number!r}; {self._known(name)}")

    def _known(self, name: str) -> str:
        numbers = [v.version for v in self.versions(name)]
        return f"there are versions {', '.join(numbers)}" if numbers else "it has no versions yet; `mugv run` registers one"

    def history(self, name: str) -> list[str]:
        from mlflow.exceptions import MlflowException

        try:
            tags = self.client.get_registered_model(name).tags
        except MlflowException:
            return []
        history: list[str] = json.loads(tags.get(HISTORY, "[]"))
        return history

    def promote(self, name: str, number: str, reason: str) -> Version:
        """Make a version the champion."""
        version = self.version(name, number)
        present = self.champion(name)
        if present is None or present.version != version.version:
            self._set_history(name, [*self.history(name), version.version])
        self.client.set_registered_model_alias(name, CHAMPION, version.version)
        self.client.set_model_version_tag(
            name, version.version, "mugv.promoted", f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {reason}"
        )
        return version

    def rollback(self, name: str) -> tuple[Version, Version]:
        """Back to the champion before the present one; returns (present, previous)."""
        history = self.history(name)
        if len(history) < 2:
            raise UserError(f"model {name}: no earlier champion to go back to; {self._known(name)}")
        left, back = self.version(name, history[-1]), self.version(name, history[-2])
        self.client.set_registered_model_alias(name, CHAMPION, back.version)
        self._set_history(name, history[:-1])
        return left, back

    def _set_history(self, name: str, history: list[str]) -> None:
        self.client.set_registered_model_tag(name, HISTORY, json.dumps(history))

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, name, value[:4900])

    def lineage(self, version: Version) -> dict[str, Any]:
        """What was written beside the model when it was registered."""
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        path = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=LINEAGE_FILE)
        tree: dict[str, Any] = json.loads(Path(path).read_text())
        return tree

    def download(self, version: Version) -> dict[str, Path]:
        """Local folders of the model's artifacts: `checkpoint` and `vae`, which Generator.open takes."""
        import mlflow
        from mlflow.models import Model

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}"))
        artifacts = Model.load(folder).flavors["python_function"]["artifacts"]
        return {name: folder / described["path"] for name, described in artifacts.items()}


def held_back(version: Version) -> str:
    """Why a version is not the champion, and how to use it all the same; one line."""
    reasons = version.tags.get(REASONS, "no gate has looked at it")
    uri = f"models:/{version.name}/{version.version}"
    return (
        f"version {version.version} was held back ({reasons}); "
        f'to use it all the same: mugv generate "..." --model {uri}, or: mugv promote {version.version} --name {version.name}'
    )


def log_version(
    uri: str,
    experiment: str,
    parent: str,
    name: str,
    artifacts: Mapping[str, Path],
    lineage: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Version:
    """Package the generator and register it as a new version; its run is nested in `parent`."""
    import mlflow

    from mugv import __version__

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    tags = {"mlflow.parentRunId": parent} if parent else {}
    made = mlflow.MlflowClient(uri).create_run(experiment, run_name=f"{name} model", tags=tags)
    # By id: without one, start_run would go on with the run that MLFLOW_RUN_ID names, which is the parent.
    with mlflow.start_run(run_id=made.info.run_id) as run:
        mlflow.log_dict(dict(lineage), LINEAGE_FILE)
        info = mlflow.pyfunc.log_model(
            name="generator",
            python_model=str(Path(__file__).with_name("video_model.py")),
            artifacts={key: str(path) for key, path in artifacts.items()},
            pip_requirements=[f"mugv=={__version__}"],
            registered_model_name=name,
        )
        mlflow.log_metrics(dict(metrics), model_id=info.model_id)
    registry = Registry(uri)
    version = registry.version(name, str(info.registered_model_version))
    assert version.run_id == run.info.run_id
    return version


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id, dict(found.tags), found.source)
