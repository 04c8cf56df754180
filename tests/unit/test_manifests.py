"""Manifests and image recipes: every overlay renders, is valid, and agrees with what pipelines and components expect."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mugv.recipe import load_recipe
from mugv.recipe.resources import JobSettings
from pipelines import common

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
RENDERED = sorted(path.parent.relative_to(MANIFESTS).as_posix() for path in MANIFESTS.rglob("kustomization.yaml"))
OVERLAYS = [name for name in RENDERED if not name.startswith("components/")]
KUBERNETES = "1.36"
WITHOUT_SCHEMA = {"ClusterTrainingRuntime", "ResourceFlavor", "ClusterQueue", "LocalQueue", "WorkloadPriorityClass", "Topology"}
POLICIES = {"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"}
CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding"} | POLICIES | WITHOUT_SCHEMA - {"LocalQueue"}


def _kubectl() -> str:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not installed (version 1.21 or later renders the manifests)")
    text = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, text=True, timeout=60).stdout
    version = json.loads(text)["clientVersion"]
    if int(version["minor"].rstrip("+")) < 21:
        pytest.skip(f"kubectl {version['gitVersion']} is too old; version 1.21 or later renders the manifests")
    return kubectl


@functools.cache
def render(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay. Skips the test where kubectl is absent or older than 1.21."""
    done = subprocess.run([_kubectl(), "kustomize", str(MANIFESTS / overlay)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a warning of kustomize"
    return list(yaml.safe_load_all(done.stdout))


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("overlay", RENDERED)
def test_an_object_that_kubernetes_would_refuse_is_found_here(overlay: str) -> None:
    for item in render(overlay):
        if item["kind"] in WITHOUT_SCHEMA:
            assert "/" in item["apiVersion"]
        else:
            assert kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_strict_validation_really_refuses_an_unknown_field() -> None:
    claim = named(render("base"), "PersistentVolumeClaim", "mugv-state")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**claim, "spec": {**claim["spec"], "acessModes": []}}, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", RENDERED)
def test_nothing_lands_in_a_wrong_namespace(overlay: str) -> None:
    for item in render(overlay):
        expected = None if item["kind"] in CLUSTER_WIDE else "mugv"
        assert item["metadata"].get("namespace") == expected, f"{item['kind']} {item['metadata']['name']}"


@pytest.mark.parametrize("overlay", [o for o in OVERLAYS if o != "base"])
def test_every_variable_of_a_task_has_a_source(overlay: str) -> None:
    objects = render(overlay)
    assert set(common.STORE_SECRETS) <= _keys(named(objects, "Secret", common.STORE))
    assert set(common.STORE_SETTINGS) <= _keys(named(objects, "ConfigMap", common.STORE))
    assert set(common.TRACKING_SETTINGS) <= _keys(named(objects, "ConfigMap", common.TRACKING))
    state = named(objects, "ConfigMap", common.STORE)["data"]["MUGV_STATE"]
    assert state == common.STATE_PATH, "the state folder must lie on the mounted volume"
    for claim in (common.STATE, common.VIDEOS):
        assert named(objects, "PersistentVolumeClaim", claim)["spec"]["accessModes"] == ["ReadWriteMany"]


def _keys(item: dict[str, Any]) -> set[str]:
    return set(item.get("data", {}))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_referenced_object_exists(overlay: str) -> None:
    objects = render(overlay)
    known = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for item in objects:
        for kind, name in _references(item):
            if kind == "Secret" and overlay == "base":
                continue  # keys come with an overlay
            assert (kind, name) in known, f"{item['metadata']['name']} refers to {kind} {name}"


def _references(value: Any) -> list[tuple[str, str]]:
    kinds = {"configMapRef": "ConfigMap", "configMapKeyRef": "ConfigMap", "secretRef": "Secret", "secretKeyRef": "Secret"}
    found: list[tuple[str, str]] = []
    if isinstance(value, list):
        return [r for child in value for r in _references(child)]
    if isinstance(value, dict):
        for key, child in value.items():
            if key in kinds:
                found.append((kinds[key], child["name"]))
            elif key == "claimName":
                found.append(("PersistentVolumeClaim", child))
            elif key == "secretName":
                found.append(("Secret", child))
            else:
                found += _references(child)
    return found


def test_the_queue_gives_the_pool_that_the_published_recipe_asks_for() -> None:
    recipe, objects = load_recipe(ROOT / "configs" / "mugv-10b.yaml"), render("overlays/gpu-cluster")
    flavor = named(objects, "ResourceFlavor", "h100")["spec"]
    assert flavor["nodeLabels"] == recipe.resources.train.node_selector
    assert flavor["tolerations"] == [t.model_dump(exclude_none=True) for t in recipe.resources.train.tolerations]
    job = recipe.resources.train.job
    assert named(objects, "LocalQueue", str(job.queue))
    assert named(objects, "WorkloadPriorityClass", str(job.priority))
    resources = named(objects, "ClusterQueue", "mugv-train")["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
    quota = {r["name"]: int(r["nominalQuota"]) for r in resources if r["name"] == "nvidia.com/gpu"}
    assert quota["nvidia.com/gpu"] >= recipe.parallel.world, "the job would wait for ever"


def test_the_launcher_may_create_training_jobs_and_nothing_more() -> None:
    objects = render("base")
    rules = named(objects, "Role", "mugv-launcher")["rules"]
    writes = {r for rule in rules for r in rule["resources"] if set(rule["verbs"]) & {"create", "update", "patch", "delete"}}
    assert writes == {"trainjobs"}
    assert named(objects, "ClusterTrainingRuntime", JobSettings().runtime)
    bound = {o["roleRef"]["name"] for o in objects if o["kind"] == "RoleBinding"}
    assert bound == {"mugv-launcher", "mugv-kfp-task"}, "another role would give the tasks more"
    kfp = named(objects, "Role", "mugv-kfp-task")["rules"]
    assert [r["resources"] for r in kfp if set(r["verbs"]) - {"get"}] == [["workflowtaskresults"]]
    assert all(r.get("resourceNames") for r in kfp if "argoproj.io" not in r["apiGroups"]), "one secret, not all of the namespace"
    assert not any("*" in rule["verbs"] + rule["resources"] for rule in rules)


def test_a_release_overlay_leaves_no_development_image() -> None:
    text = yaml.safe_dump_all(render("overlays/gpu-cluster"))
    images = set(re.findall(r"image: (mugv/\S+)", text))
    recipe = load_recipe(ROOT / "configs" / "mugv-10b.yaml")
    assert images == {recipe.resources.image_data, recipe.resources.image_train}


def test_the_mlflow_folder_cannot_shadow_the_package() -> None:
    files = [p.name for p in (ROOT / "mlflow").rglob("*") if p.is_file()]
    assert "registry.yaml" in files
    assert not [f for f in files if f.endswith((".py", ".pyc"))]


def test_the_registry_s_description_names_the_models_of_the_recipes() -> None:
    models = yaml.safe_load((ROOT / "mlflow" / "registry.yaml").read_text())["models"]
    assert len(models) >= 2
    for model in models:
        assert load_recipe(ROOT / model["recipe"]).register_.model == model["name"]


def test_every_tag_of_a_version_is_described() -> None:
    described = yaml.safe_load((ROOT / "mlflow" / "registry.yaml").read_text())
    text = (ROOT / "mugv" / "stages" / "register.py").read_text() + (ROOT / "mugv" / "platform" / "registry.py").read_text()
    used = set(re.findall(r'"(mugv\.[a-z_.]+[a-z])"', text))
    assert used
    assert used <= set(described["version_tags"]) | set(described["model_tags"]) | {"mugv.key."}


def test_an_image_runs_our_locked_packages_as_an_ordinary_user() -> None:
    lines = (ROOT / "images" / "Containerfile").read_text().splitlines()
    text = "\n".join(lines)
    froms = [line for line in lines if line.startswith("FROM")]
    assert froms == ["FROM ${BUILD_BASE} AS packages", "FROM packages AS code", "FROM ${BASE}"]
    assert re.search(r"^ARG BASE=python:3\.11", text, re.MULTILINE)
    assert "install --no-deps --no-build-isolation" in text
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    assert lines.index("USER 10001:10001") > max(i for i, line in enumerate(lines) if line.startswith("RUN"))
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for path in copied.split():
            assert (ROOT / path.replace("${IMAGE}", "data")).exists(), path
