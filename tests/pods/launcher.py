"""What KFP's driver and launcher do for one task: its environment, its executor input, its artifacts in and out, its exit code.

Artifacts travel as the launcher takes them: `s3://bucket/key` in the store of artifacts (a folder here) is `/s3/bucket/key` in the pod.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ir import Pipeline, TaskFailedError, Values, Work
from pod import USER, Image, Pod

METADATA = "tmp/kfp_outputs/output_metadata.json"
BUCKET = "pipelines"


@dataclass
class Cluster:
    """What a namespace has. `folder`: where its volumes, its artifacts and its pods lie."""

    image: Image
    folder: Path
    settings: dict[str, dict[str, str]]
    """Config maps and secrets by name."""
    run: str = "run-1"
    volumes: dict[str, Path] = field(default_factory=dict)
    """Persistent volumes by claim; those that are named and missing are made."""
    scale: float = 0.02
    parallel: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of every pod beside those of its image and its task."""
    started: Callable[[Pod, Work], None] = lambda pod, work: None
    """Called with every pod that was started."""
    pods: list[tuple[Work, Pod, int]] = field(default_factory=list)
    """All that ended, with their exit codes."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self.volumes.setdefault("mugv-state", self.folder / "state")
        for path in self.volumes.values():
            path.mkdir(parents=True, exist_ok=True)
            # As fsGroup does.
            os.chown(path, 0, USER)
            path.chmod(0o2775)

    def start(self, compiled: Path, **parameters: Any) -> Pipeline:
        """Run a compiled pipeline to its end; raises as Pipeline.start."""
        pipeline = Pipeline(compiled, lambda work: self._run(pipeline, work), self.scale, self.parallel)
        pipeline.start(**parameters)
        return pipeline

    def codes(self, task: str) -> list[int]:
        """Exit codes of a task's tries."""
        return [code for work, _, code in self.pods if work.name == task]

    def _run(self, pipeline: Pipeline, work: Work) -> Values:
        with self._lock:
            self._count += 1
            folder = self.folder / "pods" / f"{self._count:03d}-{work.name.replace('/', '-')}-{work.attempt}"
        executor, placed = pipeline.executors[work.executor], pipeline.kubernetes.get(work.executor, {})
        pod = Pod(self.image, [], self._environment(executor["container"], placed), self._mounted(placed), folder)
        given = _executor_input(work, f"s3://{BUCKET}/{self.run}/{work.name}")
        # KFP gives them to every pod; those of two tries differ.
        pod.environment |= {"KFP_POD_NAME": folder.name, "KFP_POD_UID": secrets.token_hex(16)}
        pod.command = _resolved([*executor["container"]["command"], *executor["container"]["args"]], given)
        self._bring(given, pod)
        pod.start()
        self.started(pod, work)
        code = pod.wait()
        with self._lock:
            self.pods.append((work, pod, code))
        if code:
            lines = [line for line in pod.text().splitlines() if line.strip()]
            raise TaskFailedError(f"{work.name}: exit code {code}: {lines[-1] if lines else ''} ({pod.log})", code)
        outputs = self._collect(given, work, pod)
        shutil.rmtree(pod.disk, ignore_errors=True)
        return outputs

    def _environment(self, container: dict[str, Any], placed: dict[str, Any]) -> dict[str, str]:
        values = self.image.environment() | self.environment
        values |= {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}
        for kind, key in (("configMapAsEnv", "configMapKey"), ("secretAsEnv", "secretKey")):
            for source in placed.get(kind, []):
                name = source["configMapName" if kind == "configMapAsEnv" else "secretName"]
                for pair in source["keyToEnv"]:
                    found = self.settings.get(name, {}).get(pair[key])
                    optional = source.get("optional") or pair.get("optional")
                    if found is None and not optional:
                        raise TaskFailedError(f"{name} has no {pair[key]}: the pod cannot start", 1)
                    values |= {pair["envVar"]: found} if found is not None else {}
        fields = {"metadata.labels['pipeline/runid']": self.run}
        return values | {
            entry["name"]: fields[entry["fieldPath"]] for entry in placed.get("fieldPathAsEnv", []) if entry["fieldPath"] in fields
        }

    def _mounted(self, placed: dict[str, Any]) -> dict[str, Path]:
        claims = {
            mount["mountPath"]: mount.get("constant") or mount["pvcNameParameter"]["runtimeValue"]["constant"]
            for mount in placed.get("pvcMount", [])
        }
        absent = [claim for claim in claims.values() if claim not in self.volumes]
        if absent:
            raise TaskFailedError(f"volume {absent[0]} does not exist: the pod stays pending", 1)
        return {place: self.volumes[claim] for place, claim in claims.items()}

    def _stored(self, uri: str) -> Path:
        return self.folder / "artifacts" / uri.partition("://")[2]

    def _bring(self, given: dict[str, Any], pod: Pod) -> None:
        for entry in given["inputs"].get("artifacts", {}).values():
            for artifact in entry["artifacts"]:
                source, target = self._stored(artifact["uri"]), pod.disk / _place(artifact["uri"])
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.is_dir():
                    shutil.copytree(source, target)
                elif source.exists():
                    shutil.copy(source, target)

    def _collect(self, given: dict[str, Any], work: Work, pod: Pod) -> Values:
        path = pod.disk / METADATA
        said = json.loads(path.read_text()) if path.exists() else {}
        outputs = Values(dict(said.get("parameterValues", {})))
        for name, entry in given["outputs"].get("artifacts", {}).items():
            artifact = {**entry["artifacts"][0], **(said.get("artifacts", {}).get(name, {"artifacts": [{}]})["artifacts"][0])}
            source, target = pod.disk / _place(artifact["uri"]), self._stored(artifact["uri"])
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, target)
            outputs.artifacts[name] = artifact
        for name, entry in given["outputs"].get("parameters", {}).items():
            written = pod.disk / entry["outputFile"].lstrip("/")
            if name not in outputs.parameters and written.exists():
                outputs.parameters[name] = written.read_text()
        return outputs


def _place(uri: str) -> str:
    """Where in a pod an artifact lies, below its root."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}/{rest}"


def _executor_input(work: Work, uri: str) -> dict[str, Any]:
    """The JSON by which a task learns its inputs and where its outputs go."""
    defined = work.component.get("inputDefinitions", {})
    parameters = {
        name: _plain(value) for name, value in work.inputs.parameters.items() if name in defined.get("parameters", {}) and value is not None
    }
    artifacts = {}
    for name, found in work.inputs.artifacts.items():
        artifacts[name] = {"artifacts": found if isinstance(found, list) else [found]}
    made = work.component.get("outputDefinitions", {})
    outputs = {
        name: {"artifacts": [{"name": name, "type": d["artifactType"], "uri": f"{uri}/{name}", "metadata": {}}]}
        for name, d in made.get("artifacts", {}).items()
    }
    return {
        "inputs": {"parameterValues": parameters, "artifacts": artifacts},
        "outputs": {
            "parameters": {name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in made.get("parameters", {})},
            "artifacts": outputs,
            "outputFile": f"/{METADATA}",
        },
    }


def _plain(value: Any) -> Any:
    """The backend keeps every number as a double and writes a whole one without a point."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _resolved(command: list[str], given: dict[str, Any]) -> list[str]:
    """Placeholders of a command line: the whole input, a parameter, an artifact's uri or path, an output's file."""

    def value(match: re.Match[str]) -> str:
        kind, side, name, what = match[1], match[2], match[3], match[4]
        if kind == "inputs" and side == "parameters":
            found = given["inputs"]["parameterValues"][name]
            return found if isinstance(found, str) else json.dumps(found)
        if side == "parameters":
            return str(given["outputs"]["parameters"][name]["outputFile"])
        uri = given[kind]["artifacts"][name]["artifacts"][0]["uri"]
        return uri if what == "uri" else f"/{_place(uri)}"

    whole = json.dumps(given)
    pattern = re.compile(r"\{\{\$\.(inputs|outputs)\.(parameters|artifacts)\['([^']+)'\](?:\.(\w+))?\}\}")
    return [pattern.sub(value, part.replace("{{$}}", whole)) for part in command]
