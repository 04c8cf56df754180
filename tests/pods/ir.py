"""Walks the DAG of a compiled pipeline (KFP's IR, read as plain YAML) the way its backend does.

Nested DAGs, loops with a limit of parallel iterations, trigger conditions, tasks that run whatever happened, retries in Argo's way. What a
task does is the business of the `run` that is given: run(task: Work) -> Outputs, which raises TaskFailedError.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ALWAYS = "ALL_UPSTREAM_TASKS_COMPLETED"


class TaskFailedError(Exception):
    """A task ended with another exit code than 0, and its retries are used up."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Values:
    """Parameters and artifacts by name, as a task gets or makes them. A list of artifacts is what a loop's body made."""

    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """One try of one task."""

    name: str
    """Names of the DAGs above, iterations and the task, such as `shards/1/curate-shard`."""
    component: dict[str, Any]
    executor: str
    inputs: Values
    attempt: int


@dataclass
class Done:
    """How a task ended: SUCCEEDED, FAILED, SKIPPED (its condition, or one above it), or CANCELLED."""

    state: str
    outputs: Values = field(default_factory=Values)
    error: Exception | None = None


class Pipeline:
    """A compiled pipeline. `scale`: what pauses between tries are multiplied with."""

    def __init__(self, path: Path, run: Callable[[Work], Values], scale: float = 1.0, parallel: int = 8) -> None:
        documents = list(yaml.safe_load_all(path.read_text()))
        self.spec: dict[str, Any] = documents[0]
        platforms = documents[1]["platforms"]["kubernetes"] if len(documents) > 1 else {}
        self.executors: dict[str, dict[str, Any]] = self.spec["deploymentSpec"]["executors"]
        self.kubernetes: dict[str, dict[str, Any]] = platforms.get("deploymentSpec", {}).get("executors", {})
        self.run, self.scale = run, scale
        self.slots = threading.Semaphore(parallel)
        self.tasks: dict[str, Done] = {}
        """How every task ended, by its name."""

    def start(self, **parameters: Any) -> Values:
        """Run to the end. Raises the first failure, after all that has to run whatever happened."""
        return self._dag(self.spec["root"], Values(dict(parameters)), "")

    def _dag(self, component: dict[str, Any], given: Values, name: str) -> Values:
        given = Values(_defaulted(component, given.parameters), given.artifacts)
        tasks: dict[str, Any] = component["dag"]["tasks"]
        done: dict[str, Done] = {}
        running: dict[Future[Done], str] = {}
        with ThreadPoolExecutor(max(1, len(tasks))) as pool:
            while len(done) < len(tasks):
                for task in [t for t in tasks if t not in done and t not in running.values()]:
                    if all(upstream in done for upstream in tasks[task].get("dependentTasks", [])):
                        running[pool.submit(self._task, task, tasks[task], given, done, name)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    done[task] = self.tasks[f"{name}{task}"] = future.result()
        failed = [d.error for d in done.values() if d.error]
        if failed:
            raise failed[0]
        return _outputs(component, done)

    def _task(self, task: str, spec: dict[str, Any], given: Values, done: Mapping[str, Done], above: str) -> Done:
        upstream = [done[name].state for name in spec.get("dependentTasks", [])]
        policy = spec.get("triggerPolicy", {})
        if policy.get("strategy") != ALWAYS and any(state != "SUCCEEDED" for state in upstream):
            return Done("SKIPPED" if all(s in ("SUCCEEDED", "SKIPPED") for s in upstream) else "CANCELLED")
        try:
            inputs = _inputs(spec, given, done)
            if not holds(policy.get("condition", ""), inputs.parameters):
                return Done("SKIPPED")
            return Done("SUCCEEDED", self._iterated(spec, inputs, f"{above}{task}"))
        except Exception as error:
            return Done("FAILED", error=error)

    def _iterated(self, spec: dict[str, Any], inputs: Values, name: str) -> Values:
        iterator = spec.get("parameterIterator") or spec.get("artifactIterator")
        if not iterator:
            return self._component(spec, inputs, name)
        artifacts = "artifactIterator" in spec
        items = _items(iterator["items"], inputs, artifacts)
        limit = int(spec.get("iteratorPolicy", {}).get("parallelismLimit", 0)) or max(1, len(items))

        def one(number: int) -> Values:
            own = Values(dict(inputs.parameters), dict(inputs.artifacts))
            (own.artifacts if artifacts else own.parameters)[iterator["itemInput"]] = items[number]
            return self._component(spec, own, f"{name}/{number}")

        with ThreadPoolExecutor(limit) as pool:
            results = list(pool.map(one, range(len(items))))
        names = {n for r in results for n in r.artifacts}, {n for r in results for n in r.parameters}
        return Values({n: [r.parameters[n] for r in results] for n in names[1]}, {n: [r.artifacts[n] for r in results] for n in names[0]})

    def _component(self, spec: dict[str, Any], inputs: Values, name: str) -> Values:
        component = self.spec["components"][spec["componentRef"]["name"]]
        if "dag" in component:
            return self._dag(component, inputs, f"{name}/")
        inputs = Values(_defaulted(component, inputs.parameters), inputs.artifacts)
        return self._tried(Retry.of(spec.get("retryPolicy", {}), self.scale), component, inputs, name)

    def _tried(self, retry: Retry, component: dict[str, Any], inputs: Values, name: str) -> Values:
        attempt, began = 0, time.monotonic()
        while True:
            try:
                with self.slots:
                    return self.run(Work(name, component, component["executorLabel"], inputs, attempt))
            except TaskFailedError:
                attempt += 1
                pause = retry.pause(attempt, time.monotonic() - began)
                if pause is None:
                    raise
                time.sleep(pause)


@dataclass(frozen=True)
class Retry:
    """Argo's way: `limit` more tries after pauses of duration * factor^n; none begins after `whole` seconds since the first try began."""

    limit: int
    duration: float
    factor: float
    whole: float | None

    @classmethod
    def of(cls, policy: dict[str, Any], scale: float) -> Retry:
        def seconds(text: Any) -> float:
            return float(str(text or "0").rstrip("s")) * scale

        whole = policy.get("backoffMaxDuration")
        factor = float(policy.get("backoffFactor") or 1.0)
        return cls(int(policy.get("maxRetryCount", 0)), seconds(policy.get("backoffDuration")), factor, seconds(whole) if whole else None)

    def pause(self, attempt: int, since_first: float) -> float | None:
        """Seconds before try number `attempt` (from 1); None: there is none."""
        wait = self.duration * self.factor ** (attempt - 1)
        if attempt > self.limit or (self.whole is not None and since_first + wait > self.whole):
            return None
        return wait


def _defaulted(component: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    defined = component.get("inputDefinitions", {}).get("parameters", {})
    defaults = {name: d["defaultValue"] for name, d in defined.items() if "defaultValue" in d}
    return {**defaults, **{n: v for n, v in parameters.items() if v is not None}}


def _inputs(spec: dict[str, Any], given: Values, done: Mapping[str, Done]) -> Values:
    inputs = Values()
    for name, source in spec.get("inputs", {}).get("parameters", {}).items():
        value = _parameter(source, given, done)
        selector = source.get("parameterExpressionSelector")
        inputs.parameters[name] = _selected(selector, value) if selector else value
    for name, source in spec.get("inputs", {}).get("artifacts", {}).items():
        if "componentInputArtifact" in source:
            found = given.artifacts.get(source["componentInputArtifact"])
        else:
            made = source["taskOutputArtifact"]
            found = done[made["producerTask"]].outputs.artifacts.get(made["outputArtifactKey"])
        if found is not None:
            inputs.artifacts[name] = found
    return inputs


def _parameter(source: dict[str, Any], given: Values, done: Mapping[str, Done]) -> Any:
    if "runtimeValue" in source:
        return source["runtimeValue"].get("constant")
    if "componentInputParameter" in source:
        return given.parameters.get(source["componentInputParameter"])
    if "taskFinalStatus" in source:
        task = source["taskFinalStatus"]["producerTask"]
        ended = done[task]
        error = {"code": 9, "message": str(ended.error)} if ended.error else {}
        return {"state": ended.state, "pipelineJobResourceName": "run", "pipelineTaskName": task, "error": error}
    made = source["taskOutputParameter"]
    return done[made["producerTask"]].outputs.parameters.get(made["outputParameterKey"])


def _selected(expression: str, value: Any) -> Any:
    """`parseJson(string_value)["a"]`."""
    found = json.loads(value) if isinstance(value, str) else value
    for key in re.findall(r'\["([^"]+)"\]', expression):
        found = found[key]
    return found


def _items(items: dict[str, Any], inputs: Values, artifacts: bool) -> list[Any]:
    if artifacts:
        return list(inputs.artifacts[items["inputArtifact"]])
    found = json.loads(items["raw"]) if "raw" in items else inputs.parameters[items["inputParameter"]]
    return list(json.loads(found) if isinstance(found, str) else found)


def _outputs(component: dict[str, Any], done: Mapping[str, Done]) -> Values:
    wanted, outputs = component["dag"].get("outputs", {}), Values()
    for name, source in wanted.get("artifacts", {}).items():
        found = [
            done[s["producerSubtask"]].outputs.artifacts[s["outputArtifactKey"]]
            for s in source["artifactSelectors"]
            if s["outputArtifactKey"] in done[s["producerSubtask"]].outputs.artifacts
        ]
        if found:
            outputs.artifacts[name] = found[0]
    for name, source in wanted.get("parameters", {}).items():
        selectors = [source["valueFromParameter"]] if "valueFromParameter" in source else source["valueFromOneof"]["parameterSelectors"]
        for s in selectors:
            if s["outputParameterKey"] in done[s["producerSubtask"]].outputs.parameters:
                outputs.parameters[name] = done[s["producerSubtask"]].outputs.parameters[s["outputParameterKey"]]
    return outputs


def holds(condition: str, parameters: dict[str, Any]) -> bool:
    """A trigger condition: comparisons of parameters and constants with `&&`, `||` and `!`. Raises ValueError for anything else."""
    if not condition:
        return True
    text = re.sub(r"inputs\.parameter_values\['([^']+)'\]", lambda m: repr(parameters.get(m[1])), condition)
    text = re.sub(r"!(?!=)", " not ", text.replace("&&", " and ").replace("||", " or "))
    text = re.sub(r"\btrue\b", "True", re.sub(r"\bfalse\b", "False", text))
    if re.search(r"[A-Za-z_]\w*\s*\((?<!not \()(?<!and \()(?<!or \()", re.sub(r"'[^']*'|\b(int|double|string)\(", "", text)):
        raise ValueError(f"condition {condition!r}: not understood")
    return bool(eval(text, {"__builtins__": {}, "int": int, "double": float, "string": str}))
