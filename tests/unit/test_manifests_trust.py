"""Who may do what in the namespace: tokens, rights of containers, and which pod answers which."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import common
from tests.unit.test_manifests import OVERLAYS, named, render

ROOT = Path(__file__).resolve().parents[2]
SERVERS = {"Deployment", "StatefulSet", "Job"}
TASK = {"key": common.RUN_LABEL.removeprefix("metadata.labels['").removesuffix("']"), "operator": "Exists"}


def pods(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, pod template) of each object that starts pods."""
    for item in render(overlay):
        if item["kind"] in SERVERS:
            yield item["metadata"]["name"], item["spec"]["template"]


def policies(overlay: str, labels: dict[str, str]) -> list[dict[str, Any]]:
    """The policies that name the pods with these labels; those for all pods of the namespace are not among them."""
    found = [o["spec"] for o in render(overlay) if o["kind"] == "NetworkPolicy"]
    chosen = [(p, p["podSelector"].get("matchLabels", {})) for p in found]
    return [p for p, wanted in chosen if wanted and wanted.items() <= labels.items()]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_holds_a_token_that_it_does_not_use(overlay: str) -> None:
    assert named(render(overlay), "ServiceAccount", "default")["automountServiceAccountToken"] is False, "nodes of training jobs"
    assert {name: template["spec"].get("automountServiceAccountToken") for name, template in pods(overlay)} == dict.fromkeys(
        (name for name, _ in pods(overlay)), False
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_can_gain_rights_or_take_the_node_s_memory(overlay: str) -> None:
    for name, template in pods(overlay):
        root = template["spec"].get("securityContext", {})
        assert root["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in template["spec"]["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"]["drop"] == ["ALL"], name
            assert container["resources"]["limits"]["memory"], name
            assert root.get("runAsNonRoot") or name == "mugv-state-rights", f"{name} runs as root"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_that_no_policy_names_is_reached_by_nobody(overlay: str) -> None:
    everything = named(render(overlay), "NetworkPolicy", "nothing-comes-in")["spec"]
    assert everything == {"podSelector": {}, "policyTypes": ["Ingress"]}


@pytest.mark.parametrize("overlay", [o for o in OVERLAYS if o != "base"])
def test_a_server_answers_the_tasks_on_its_own_port_only(overlay: str) -> None:
    for name, template in pods(overlay):
        ports = {p["name"] for c in template["spec"]["containers"] for p in c.get("ports", [])}
        rules = [r for p in policies(overlay, template["metadata"]["labels"]) for r in p.get("ingress", [])]
        assert all(r.get("from") for r in rules), f"{name}: open to all"
        assert bool(rules) == bool(ports), f"{name}: nobody could reach it" if ports else name
        answered = [peer for r in rules for peer in r["from"] if {"port": next(iter(ports), "")} in r.get("ports", [])]
        tasks = [p for p in answered if p.get("podSelector", {}).get("matchExpressions") == [TASK]]
        assert bool(tasks) == (name in {"mlflow", "object-store"}), name


def test_only_mlflow_reaches_its_database() -> None:
    rules = policies("overlays/gpu-cluster", {"app.kubernetes.io/name": "mlflow-postgres"})
    peers = [peer for p in rules for r in p.get("ingress", []) for peer in r["from"]]
    assert peers == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "mlflow"}}}]
    assert all("Egress" in p["policyTypes"] and not p.get("egress") for p in rules), "a database asks nobody"
    asked = [r for p in policies("overlays/gpu-cluster", {"app.kubernetes.io/name": "mlflow"}) for r in p.get("egress", []) if r.get("to")]
    database = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "mlflow-postgres"}}}
    assert asked == [{"to": [database], "ports": [{"port": "postgres"}]}]


def test_the_state_volume_is_given_to_the_user_of_the_images() -> None:
    (user,) = re.findall(r"^USER (\d+:\d+)$", (ROOT / "images" / "Containerfile").read_text(), re.MULTILINE)
    spec = named(render("base"), "Job", "mugv-state-rights")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert f"chown {user} {common.STATE_PATH} " in container["command"][-1]
    assert container["volumeMounts"] == [{"name": "state", "mountPath": common.STATE_PATH}]
    assert spec["volumes"] == [{"name": "state", "persistentVolumeClaim": {"claimName": common.STATE}}]
    assert set(container["securityContext"]["capabilities"]["add"]) == {"CHOWN", "FOWNER"}
