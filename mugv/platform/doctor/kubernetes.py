"""What the compiled tasks name in the cluster: secrets, config maps, volumes, the service account. Looked at where an account allows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mugv.platform.doctor import Finding, ok, skipped, wrong
from mugv.recipe import Recipe

LIMIT = (4, 8)
"""Seconds to connect and to wait for an answer."""
MENDS = {
    "secret": "make it: kubectl create secret generic {name} -n {namespace} --from-literal=KEY=VALUE; manifests/ has its keys",
    "config_map": "apply manifests/ (config map {name})",
    "persistent_volume_claim": "apply manifests/ (volume {name})",
    "service_account": "apply manifests/ (rbac.yaml), or give another one with --service-account",
}
KINDS = {"secret": "secret", "config_map": "config map", "persistent_volume_claim": "volume", "service_account": "service account"}


def named_objects(recipe: Recipe, account: str) -> dict[tuple[str, str], bool]:
    """(kind, name) -> whether a task cannot start without it, of all that the recipe's pipelines name."""
    from mugv.platform.kfp_client import platform_spec

    found: dict[tuple[str, str], bool] = {("service_account", account): True}
    fields = (
        *(("secret", field, "secretName") for field in ("secretAsEnv", "secretAsVolume")),
        *(("config_map", field, "configMapName") for field in ("configMapAsEnv", "configMapAsVolume")),
        ("persistent_volume_claim", "pvcMount", "constant"),
    )
    for executor in platform_spec(recipe, "retrain")["deploymentSpec"]["executors"].values():
        for kind, field, key in fields:
            for each in executor.get(field, []):
                found[kind, each[key]] = found.get((kind, each[key]), False) or not each.get("optional", False)
    return found


def cluster(recipe: Recipe, namespace: str | None, account: str) -> Iterator[Finding]:
    """A line for each object that is missing, one for those that are there."""
    api, where = _client(namespace)
    if api is None:
        yield skipped("cluster", where)
        return
    there = []
    for (kind, name), needed in named_objects(recipe, account).items():
        finding = _look(api, kind, name, where, needed)
        if finding:
            yield finding
        else:
            there.append(name)
    if there:
        yield ok("cluster", f"namespace {where} has {', '.join(sorted(set(there)))}")


def _client(namespace: str | None) -> tuple[Any, str]:
    """A client and the namespace; None and why there is none."""
    try:
        from kubernetes import client, config
    except ImportError:
        return None, "the package kubernetes is not in this image"
    wanted = namespace or os.environ.get("KFP_NAMESPACE", "")
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        try:
            config.load_incluster_config()
        except config.ConfigException:
            return None, "this pod has no token of a service account, as it should be where none is needed"
        own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
        return client.CoreV1Api(), wanted or (own.read_text().strip() if own.exists() else "mugv")
    try:
        file = os.environ.get("KUBECONFIG") or None
        config.load_kube_config(file)
        context = config.list_kube_config_contexts(file)[1].get("context", {})
    except (config.ConfigException, OSError):
        return None, "no kube config here (KUBECONFIG), so secrets, config maps and volumes are not looked at"
    return client.CoreV1Api(), wanted or context.get("namespace") or "mugv"


def _look(api: Any, kind: str, name: str, namespace: str, needed: bool) -> Finding | None:
    """None where it is there, or may be missing."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    check = f"{KINDS[kind]} {name}"
    # A name alone: a secret's content is nobody's business.
    try:
        getattr(api, f"read_namespaced_{kind}")(name, namespace, _request_timeout=LIMIT)
    except ApiException as error:
        if error.status == 404:
            missing = f"not in namespace {namespace}"
            mend = MENDS[kind].format(name=name, namespace=namespace)
            return wrong(check, missing, mend) if needed else skipped(check, f"{missing}; only some set-ups need it")
        if error.status in (401, 403):
            return skipped(check, f"this account may not look at it ({error.status})")
        return wrong(check, f"the API server answers {error.status}")
    except HTTPError as error:
        return wrong(check, f"the API server does not answer ({type(getattr(error, 'reason', None) or error).__name__})")
    return None
