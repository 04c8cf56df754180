"""The model registry: versions of the generator with their lineage, the gate, and the alias `champion` with its history."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from mugv.errors import UserError
from mugv.evaluation.paired import FILE as RESULTS_FILE
from mugv.evaluation.paired import LOWER_IS_BETTER, Comparison, NotComparableError, Results, compare, read_results, to_json
from mugv.platform.datasets import LONGEST_DIGEST
from mugv.platform.registered_files import check, readable
from mugv.recipe.schema import Gate
from mugv.store.manifest import checked_name

if TYPE_CHECKING:
    from mugv.platform.tracking import Tracking

logger = logging.getLogger(__name__)
CHAMPION = "champion"
HISTORY = "mugv.champion.history"
"""Tag of the registered model: the versions that were champion, oldest first, as JSON; rollback takes the last one off."""
REASONS = "mugv.gate.reasons"
"""Tag of a version: what the gate said, joined by semicolons."""
METRIC = "metric."
KEY = "mugv.key."
LINEAGE_FILE = "lineage.json"
AUTO = ("t2v_seen_all", "validation_flow_loss")
"""Metrics that `compare: auto` takes, the first that was measured."""


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
        """Those of its tags that are numbers: people edit tags too."""
        found = {}
        for name, value in self.tags.items():
            if name.startswith(METRIC):
                with suppress(ValueError):
                    found[name.removeprefix(METRIC)] = float(value)
        return found

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def keys(self) -> dict[str, str]:
        """Cache key of each stage that led to this version."""
        return {name.removeprefix(KEY): value for name, value in self.tags.items() if name.startswith(KEY)}


@dataclass(frozen=True)
class GateDecision:
    """Whether `champion` moves, and why."""

    champion: bool
    reasons: tuple[str, ...]


def decide(
    gate: Gate,
    metrics: Mapping[str, float],
    champion: Version | None,
    unmeasured: str = "",
    results: Results | None = None,
    champion_results: Results | None = None,
) -> GateDecision:
    """Every metric must be finite, every threshold must hold, and the champion must be beaten on the same prompts.

    `unmeasured`: why metrics are missing. `results`: what both made of each prompt.
    """
    said = [(False, f"{name} is {value:g}: no finite number") for name, value in sorted(metrics.items()) if not math.isfinite(value)]
    said += [_threshold(name, "least", limit, metrics, unmeasured) for name, limit in sorted(gate.minimum.items())]
    said += [_threshold(name, "most", limit, metrics, unmeasured) for name, limit in sorted(gate.maximum.items())]
    said.append(_compare(gate, metrics, champion, results or {}, champion_results or {}))
    failed = tuple(reason for holds, reason in said if not holds)
    return GateDecision(not failed, failed or tuple(reason for _, reason in said))


def _threshold(name: str, bound: str, limit: float, metrics: Mapping[str, float], unmeasured: str) -> tuple[bool, str]:
    if name not in metrics:
        return False, f"{name} was not measured{f' ({unmeasured})' if unmeasured else ''}; at {bound} {limit:g} is asked"
    value = metrics[name]
    if value >= limit if bound == "least" else value <= limit:
        return True, f"{name} {value:.4g} is at {bound} {limit:g}"
    return False, f"{name} {value:.4g} is {'under' if bound == 'least' else 'over'} {limit:g}"


def _compare(gate: Gate, metrics: Mapping[str, float], champion: Version | None, own: Results, others: Results) -> tuple[bool, str]:
    if champion is None:
        return True, "there is no champion yet"
    whose = f"champion {champion.version}"
    name = gate.compare if gate.compare != "auto" else next((n for n in AUTO if n in metrics), "")
    if name is None:
        return True, f"no metric to compare with {whose} is set"
    if name not in metrics:
        return False, f"{name or ' or '.join(AUTO)} was not measured, so it cannot be compared with {whose}"
    theirs = champion.metrics.get(name, 0.0)
    if not math.isfinite(theirs):
        return True, f"{whose}'s {name} is {theirs:g}: no finite number to compare with"
    if name not in champion.metrics:
        return False, f"{whose} has no {name} to compare with; `mugv promote` replaces it all the same"
    if not others:
        return _by_numbers(name, metrics[name], theirs, whose)
    try:
        return _by_test(gate, compare(name, own, others), whose)
    except NotComparableError as error:
        return False, f"{name} is not compared with {whose}: {error}; `mugv promote` replaces it all the same"


def _by_numbers(name: str, mine: float, theirs: float, whose: str) -> tuple[bool, str]:
    """Versions of before results by prompt were kept."""
    lower = name in LOWER_IS_BETTER
    better, word = (mine < theirs, "under") if lower else (mine > theirs, "above")
    why = f"numbers alone: {whose} kept no results by prompt"
    return better, f"{name} {mine:.4g} is {'' if better else 'not '}{word} {whose}'s {theirs:.4g} ({why})"


def _by_test(gate: Gate, found: Comparison, whose: str) -> tuple[bool, str]:
    better = gate.replace == "better"
    p = found.p_better if better else found.p_worse
    significant = p < gate.significance
    verdict = f"{'' if significant else 'not '}significantly {'better' if better else 'worse'} than {whose}"
    sign = "under" if significant else "not under"
    return significant == better, f"{found}; {verdict} (paired permutation test, p {p:.2g} {sign} {gate.significance:g})"


class Registry:
    """Thin over MlflowClient. Raises UserError for names and versions that are not there."""

    def __init__(self, tracking: str | Tracking) -> None:
        from mugv.platform.tracking import Tracking

        found = tracking if isinstance(tracking, Tracking) else Tracking(tracking)
        self.uri = found.uri
        self.client: Any = found.client

    def champion(self, name: str) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version_by_alias(name, CHAMPION))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def names(self) -> list[str]:
        """Of the registered models."""
        return sorted(model.name for model in self.client.search_registered_models())

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
        if numbers:
            return f"there are versions {', '.join(numbers)}"
        others = self.names()
        return f"there are models {', '.join(others)}" if others else "it has no versions yet; `mugv run` registers one"

    def history(self, name: str) -> list[str]:
        from mlflow.exceptions import MlflowException

        try:
            tags = self.client.get_registered_model(name).tags
        except MlflowException:
            return []
        try:
            history = json.loads(tags.get(HISTORY, "[]"))
        except ValueError:
            history = None
        if not isinstance(history, list):
            logger.warning("model %s: its tag %s is no list of versions and counts as empty", name, HISTORY)
            return []
        return [str(version) for version in history]

    def promote(self, name: str, number: str, reason: str) -> Version:
        """Make a version the champion. Raises UserError when its files are not what was registered."""
        version = self.version(name, number)
        self.download(version)
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
        self.download(back)
        self.client.set_registered_model_alias(name, CHAMPION, back.version)
        self._set_history(name, history[:-1])
        return left, back

    def _set_history(self, name: str, history: list[str]) -> None:
        self.client.set_registered_model_tag(name, HISTORY, json.dumps(history))

    def describe(self, version: Version, card: str, file: str) -> None:
        """Show `card` (Markdown) on the version's page, and keep it beside the model's lineage as `file`."""
        self.client.update_model_version(version.name, version.version, description=card)
        self.client.log_text(version.run_id, card, file)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.client.set_model_version_tag(version.name, version.version, name, value[:4900])

    def lineage(self, version: Version) -> dict[str, Any]:
        """What was written beside the model when it was registered."""
        import mlflow

        mlflow.set_tracking_uri(self.uri)
        with readable(version.uri, LINEAGE_FILE):
            path = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=LINEAGE_FILE)
            return dict(json.loads(Path(path).read_text()))

    def results(self, version: Version) -> Results:
        """What the version made of each prompt of its evaluation; {} for versions that were registered without."""
        import mlflow

        if RESULTS_FILE not in {artifact.path for artifact in self.client.list_artifacts(version.run_id)}:
            return {}
        mlflow.set_tracking_uri(self.uri)
        return read_results(Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=RESULTS_FILE)))

    def before(self, version: Version) -> Version | None:
        """The champion that `version` is to replace, or has replaced when it is champion already."""
        present = self.champion(version.name)
        if present is None or present.version != version.version:
            return present
        earlier = self.history(version.name)[-2:-1]
        return self.version(version.name, earlier[0]) if earlier else None

    def download(self, version: Version) -> dict[str, Path]:
        """Local folders of the model's artifacts: `checkpoint` and `vae`, which Generator.open takes.

        Raises UserError when a file is not what was registered.
        """
        import mlflow
        import yaml

        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        with readable(version.uri, "MLmodel"):
            folder = Path(mlflow.artifacts.download_artifacts(version.uri))
            # Read here: MLflow's own reader takes the folder for a URI, whatever a # or % in it stands for.
            artifacts = yaml.safe_load((folder / "MLmodel").read_bytes())["flavors"]["python_function"]["artifacts"]
            folders = {name: folder / checked_name(described["path"]) for name, described in artifacts.items()}
        check(version.uri, folders, version.tags)
        return folders


def held_back(version: Version) -> str:
    """Why a version is not the champion, and how to use it all the same; one line."""
    reasons = version.tags.get(REASONS, "no gate has looked at it")
    return (
        f"version {version.version} was held back ({reasons}); "
        f'to use it all the same: mugv generate "..." --model {version.uri}, or: mugv promote {version.version} --name {version.name}'
    )


def log_version(
    uri: str,
    experiment: str,
    parent: str,
    name: str,
    artifacts: Mapping[str, Path],
    lineage: Mapping[str, Any],
    metrics: Mapping[str, float],
    results: Results | None = None,
    clips: Mapping[str, str] | None = None,
) -> Version:
    """Package the generator and register it as a new version; its run is nested in `parent`.

    `clips`: uri and digest of the clip set that the metrics were measured on, so that MLflow ties model, metric and data together.
    """
    import mlflow

    from mugv import __version__

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    tags = {"mlflow.parentRunId": parent} if parent else {}
    made = mlflow.MlflowClient(uri).create_run(experiment, run_name=f"{name} model", tags=tags)
    # By id: without one, start_run would go on with the run that MLFLOW_RUN_ID names, which is the parent.
    with mlflow.start_run(run_id=made.info.run_id) as run:
        mlflow.log_dict(dict(lineage), LINEAGE_FILE)
        if results:
            mlflow.log_text(to_json(results), RESULTS_FILE)
        info = mlflow.pyfunc.log_model(
            name="generator",
            python_model=str(Path(__file__).with_name("video_model.py")),
            # As URIs: MLflow reads a plain path as one, and a # or % in it as what that means there.
            artifacts={key: path.absolute().as_uri() for key, path in artifacts.items()},
            pip_requirements=[f"mugv=={__version__}"],
            registered_model_name=name,
        )
        measured_on = _dataset(clips) if clips else None
        if measured_on:
            mlflow.log_input(measured_on, context="evaluation")
        mlflow.log_metrics(dict(metrics), model_id=info.model_id, dataset=measured_on)
    registry = Registry(uri)
    version = registry.version(name, str(info.registered_model_version))
    assert version.run_id == run.info.run_id
    return version


def _dataset(clips: Mapping[str, str]) -> Any:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    with warnings.catch_warnings():
        # Of two readers of local files it names the one that it takes.
        warnings.simplefilter("ignore", UserWarning)
        return MetaDataset(resolve_dataset_source(clips["uri"]), name="clips", digest=clips["digest"][:LONGEST_DIGEST])


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id, dict(found.tags), found.source)
