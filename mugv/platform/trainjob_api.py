"""The few calls of the Kubernetes API that a TrainJob needs, with what can go wrong in one line each.

In a pod the service account's token is used, elsewhere the file that MUGV_KUBECONFIG names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from mugv.errors import ServiceAwayError, UserError
from mugv.platform.trainjob import GROUP, KEY_LABEL, PLURAL, PODS, VERSION
from mugv.recipe.resources import JobSettings

TIMEOUT = (5.0, 30.0)
"""Seconds to connect and to be answered."""
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
LOG_BYTES = 1 << 20
KUEUE = "kueue.x-k8s.io"
ROLE = "role mugv-launcher (manifests/base/rbac.yaml)"


def on_cluster(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a pod, or was told of a cluster."""
    return bool(environment.get("KUBERNETES_SERVICE_HOST") or environment.get("MUGV_KUBECONFIG"))


class UnreachableError(ServiceAwayError):
    """The API server does not answer; it may soon."""


class Api:
    """TrainJobs of one namespace. Methods raise UserError for what a person must mend and UnreachableError for what may pass."""

    def __init__(self, namespace: str = "") -> None:
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            if os.environ.get("MUGV_KUBECONFIG"):
                config.load_kube_config(os.environ["MUGV_KUBECONFIG"], client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise UserError(f"Kubernetes API: {error}; a task that starts a TrainJob needs the token of its service account") from None
        settings.retries = False
        connection = client.ApiClient(settings)
        self.namespace = namespace or os.environ.get("MUGV_POD_NAMESPACE", "") or _own_namespace()
        self._objects, self._core = client.CustomObjectsApi(connection), client.CoreV1Api(connection)
        self._connection = connection
        self._untold: set[str] = set()

    def check(self, settings: JobSettings, key: str) -> None:
        """UserError where the runtime or the queue that the recipe names (`key`: its place there) is not on the cluster."""
        runtime = self._ask("read ClusterTrainingRuntimes", partial(self._runtime, settings.runtime), {})
        if runtime is None:
            raise UserError(
                f"{key}.runtime {settings.runtime}: this cluster has no such ClusterTrainingRuntime; apply manifests/base/runtime.yaml"
            )
        if settings.queue:
            self._check_queue(settings.queue, key)

    def _runtime(self, name: str) -> dict[str, Any] | None:
        return self._call(partial(self._objects.get_cluster_custom_object, GROUP, VERSION, "clustertrainingruntimes", name, **_TIME))

    def _check_queue(self, queue: str, key: str) -> None:
        found = self._kueue("localqueues")
        if found is None:
            raise UserError(f"{key}.queue {queue}: Kueue is not installed on this cluster; install it or leave the key out")
        names = sorted(item["metadata"]["name"] for item in found)
        if (found and queue not in names) or (not found and "localqueues" not in self._untold):
            there = f"has {', '.join(names)}" if names else "has none"
            raise UserError(f"{key}.queue {queue}: namespace {self.namespace} {there}; create the LocalQueue or name another")

    def _kueue(self, plural: str) -> list[dict[str, Any]] | None:
        """Objects of Kueue in the namespace, [] where they may not be read; None where Kueue is not installed."""
        try:
            group = _answered(partial(self._connection.call_api, f"/apis/{KUEUE}", "GET", **_GROUP))[0]
        except _RefusedError as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return None
            raise self._mistake(refusal, "use") from None
        arguments = (KUEUE, group["preferredVersion"]["version"], self.namespace, plural)
        found = self._ask(plural, partial(self._call, partial(self._objects.list_namespaced_custom_object, *arguments, **_TIME)), None)
        return list((found or {"items": []})["items"])

    def get(self, name: str) -> dict[str, Any] | None:
        """The job, None where there is none of that name."""
        arguments = (GROUP, VERSION, self.namespace, PLURAL, name)
        return self._call(partial(self._objects.get_namespaced_custom_object, *arguments, **_TIME))

    def of_key(self, key: str) -> list[dict[str, Any]]:
        """All jobs for one cache key, of whatever run."""
        arguments = (GROUP, VERSION, self.namespace, PLURAL)
        selector = f"{KEY_LABEL}={key[:63]}"
        found = self._call(partial(self._objects.list_namespaced_custom_object, *arguments, label_selector=selector, **_TIME))
        return list((found or {"items": []})["items"])

    def create(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """The job as the server keeps it; None where one of that name is there."""
        arguments = (GROUP, VERSION, self.namespace, PLURAL, job)
        try:
            create = partial(self._objects.create_namespaced_custom_object, *arguments, field_validation="Strict", **_TIME)
            made: dict[str, Any] = _answered(create)
        except _RefusedError as refusal:
            if refusal.status == HTTPStatus.CONFLICT:
                return None
            raise self._mistake(refusal, "create") from None
        return made

    def own(self, job: dict[str, Any], owner: dict[str, Any] | None) -> None:
        """Add an owner to a job that another pod made: it must not end with that pod alone."""
        owners = job["metadata"].get("ownerReferences", [])
        if owner is None or any(o["uid"] == owner["uid"] for o in owners):
            return
        change = {"metadata": {"ownerReferences": [*owners, owner]}}
        arguments = (GROUP, VERSION, self.namespace, PLURAL, job["metadata"]["name"], change)
        write = partial(self._objects.patch_namespaced_custom_object, *arguments, **_TIME)
        self._ask("patch trainjobs", partial(self._call, write), None)

    def delete(self, name: str) -> None:
        """Foreground: the job stays until its pods, which get their grace, are gone. Nothing where there is none."""
        arguments = (GROUP, VERSION, self.namespace, PLURAL, name)
        self._call(partial(self._objects.delete_namespaced_custom_object, *arguments, propagation_policy="Foreground", **_TIME))

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The job's pods, [] where they may not be read."""
        read = partial(self._core.list_namespaced_pod, self.namespace, label_selector=f"{PODS}={name}", **_RAW)
        return self._items(self._ask("list pods", partial(self._call, read), None))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events of the job and of the JobSet of the same name, the last one last."""
        selector = f"involvedObject.name={name}"
        read = partial(self._core.list_namespaced_event, self.namespace, field_selector=selector, **_RAW)
        found = self._items(self._ask("list events", partial(self._call, read), None))
        return sorted(found, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")

    def workload(self, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """What Kueue made of the job."""
        uid = job["metadata"]["uid"]
        owned = [w for w in self._kueue("workloads") or () if any(o["uid"] == uid for o in w["metadata"].get("ownerReferences", ()))]
        return owned[-1] if owned else None

    def log(self, pod: str, container: str, seconds: int) -> str | None:
        """Lines of the last seconds, each with its time in front; None where the log may not or cannot be read."""
        options = {"container": container, "since_seconds": seconds, "timestamps": True, "limit_bytes": LOG_BYTES, **_RAW}
        read = partial(self._core.read_namespaced_pod_log, pod, self.namespace, **options)
        try:
            found = self._ask("read pods/log", partial(self._call, read), None)
        except UserError:
            return None  # the container has not started
        return None if found is None else found.data.decode(errors="replace")

    def _call(self, call: Callable[[], Any]) -> Any:
        """What the server answers; None for an object that is not there."""
        try:
            return _answered(call)
        except _RefusedError as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND and refusal.of_object:
                return None
            raise self._mistake(refusal, "use") from None

    def _ask(self, what: str, call: Callable[[], Any], otherwise: Any) -> Any:
        """For what only helps: where it is not permitted, or not served, the log says so once and `otherwise` stands for it."""
        try:
            return call()
        except _NotPermittedError as error:
            if what not in self._untold:
                self._untold.add(what)
                print(f"launch: {error}; {what} is left out", flush=True)
            return otherwise

    @staticmethod
    def _items(answer: Any) -> list[dict[str, Any]]:
        return [] if answer is None else list(json.loads(answer.data).get("items", ()))

    def _mistake(self, refusal: _RefusedError, verb: str) -> UserError:
        where, status = f"TrainJob in namespace {self.namespace}", refusal.status
        denied = "admission webhook" in refusal.message
        if status == HTTPStatus.FORBIDDEN and not denied:
            return _NotPermittedError(f"Kubernetes API: {refusal.message}; bind the service account to the {ROLE}")
        if status == HTTPStatus.UNAUTHORIZED:
            return UserError("Kubernetes API: the token of the service account is not accepted; is it expired or of another cluster?")
        if status == HTTPStatus.NOT_FOUND and not refusal.of_object:
            return UserError(f"{where}: the cluster has no {GROUP}/{VERSION}; install Kubeflow Trainer 2.3, or use one node")
        return UserError(f"{where}: the cluster refuses to {verb} it: {refusal.message}")


_TIME: dict[str, Any] = {"_request_timeout": TIMEOUT}
_GROUP: dict[str, Any] = {"auth_settings": ["BearerToken"], "response_type": "object", **_TIME}
_RAW: dict[str, Any] = {"_preload_content": False, **_TIME}


class _NotPermittedError(UserError):
    """The service account may not do this."""


class _RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status = status
        try:
            told = json.loads(body)
            self.message = str(told["message"])
            self.of_object = bool(told.get("details", {}).get("name"))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.message, self.of_object = body.strip() or f"HTTP {status}", False


def _answered(call: Callable[[], Any]) -> Any:
    """Raises _RefusedError for an answer of the API, UnreachableError for none."""
    import urllib3
    from kubernetes.client import ApiException

    try:
        return call()
    except ApiException as error:
        status = int(error.status or 0)
        if status in (0, HTTPStatus.TOO_MANY_REQUESTS) or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise UnreachableError(f"Kubernetes API: answers {status} {error.reason or ''}".rstrip()) from None
        body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
        raise _RefusedError(status, body) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise UnreachableError(f"Kubernetes API: does not answer ({type(error).__name__})") from None


def _own_namespace() -> str:
    try:
        return NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "mugv"
