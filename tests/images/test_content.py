"""What is in the images, and what is not: each stage's modules import, a task starts within seconds, nothing of a developer's is left."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from typing import Any

import pytest

from images.locks import path, pins
from tests.images.conftest import CONFINED, IMAGES, ROOT, VOLUMES, docker, in_image

COMPONENTS = sorted(p.parent.name for p in (ROOT / "components").glob("*/component.py"))
STAGE = re.compile(r"mugv/stages/(\w+)\.py")
HEAVY = {"torch", "transformers", "mlflow", "pandas", "cv2", "av", "scipy", "dvc", "matplotlib", "onnxruntime"}
GIGABYTES = {"data": 1.3, "train": 2.6}
START_SECONDS = 3.0


def pool_of(folder: str) -> str:
    """The image that a component names."""
    component = getattr(importlib.import_module(f"components.{folder}.component"), folder)
    image: str = component.component_spec.implementation.container.image
    return image.partition("/")[2].partition("-")[0]


@pytest.mark.parametrize("pool", sorted(IMAGES))
def test_every_module_of_an_image_s_stages_imports_in_it(pool: str) -> None:
    """As user 10001 on a read-only root file system without a network, each in a process of its own."""
    own = [f"components.{name}.component" for name in COMPONENTS if pool == "train" or pool_of(name) == pool]
    own += sorted({f"mugv.stages.{stage}" for m in own for stage in STAGE.findall((ROOT / f"{m.replace('.', '/')}.py").read_text())})
    own += ["mugv.cli.main", "mugv.stages.execute", "mugv.platform.registry", "mugv.platform.tracking", "mugv.platform.video_model"]
    libraries = ["cv2", "av", "faiss", "onnxruntime", "rapidocr", "scenedetect", "pyarrow.parquet", "pyarrow.dataset", "mlflow.server"]
    libraries += ["mlflow.server.auth", "dvc.api", "s3fs", "boto3", "psycopg2", "kfp.kubernetes", "matplotlib.pyplot", "openai", "sklearn"]
    libraries += ["torch", "megatron.core", "transformers", "safetensors.torch"] if pool == "train" else []
    code = f"""
import subprocess, sys
for module in {own + libraries}:
    done = subprocess.run([sys.executable, "-c", f"import {{module}}"], capture_output=True, text=True)
    if done.returncode:
        print(module, done.stderr.strip().splitlines()[-1])
"""
    assert in_image(pool, code).stdout == ""


@pytest.mark.parametrize("pool", sorted(IMAGES))
def test_an_image_keeps_to_its_size(pool: str) -> None:
    size = int(docker("image", "inspect", "-f", "{{.Size}}", IMAGES[pool]).stdout) / 1e9
    print(f"\n{IMAGES[pool]}: {size:.2f} GB")
    assert size <= GIGABYTES[pool]


@pytest.mark.parametrize("pool", sorted(IMAGES))
def test_an_image_has_what_its_lock_says_and_nothing_else(pool: str) -> None:
    code = "from importlib.metadata import distributions as d; print(*{x.name + '==' + x.version.partition('+')[0] for x in d()})"
    installed = pins("\n".join(in_image(pool, code).stdout.split()))
    assert installed.pop("mugv")
    assert installed == pins(path(pool).read_text())


def test_the_data_image_has_no_compiler_no_cuda_no_tools_and_no_caches() -> None:
    programs = ["gcc", "cc", "c++", "g++", "make", "ld", "strip", "pip", "git", "curl", "wget", "nvcc", "pytest", "ruff", "mypy", "rclone"]
    code = f"""
import glob, os, shutil
print([p for p in {programs} if shutil.which(p)])
large = ["/opt/venv/lib/python3*/site-packages/torch*", "/opt/venv/**/*nvidia*", "/usr/local/cuda*"]
print([p for pattern in large for p in glob.glob(pattern, recursive=True)])
left = ["/root/.cache", "/root/.config", "/wheels", "/src", "/etc/pip.conf", "/root/.pip", "/opt/pip", "/var/cache/apt/archives/*.deb"]
print([p for pattern in left for p in glob.glob(pattern)])
print(os.listdir("/var/lib/apt/lists"), [d for d, _, _ in os.walk("/opt/venv") if os.path.basename(d) in ("tests", "test")])
"""
    assert in_image("data", code, "--user", "0").stdout.splitlines() == ["[]", "[]", "[]", "[] []"]


@pytest.mark.parametrize("pool", sorted(IMAGES))
def test_no_secret_and_nothing_of_the_building_machine_is_in_an_image(pool: str) -> None:
    """Neither in its files nor in the commands of its history: certificates, addresses of package indexes, keys."""
    code = """
import os, pathlib
names = ("id_rsa", "id_ed25519", ".netrc", ".pypirc", "pip.conf", "credentials", ".git-credentials", ".npmrc")
walked = [(d, files) for top in ("/etc", "/opt", "/root", "/home", "/usr/local") for d, _, files in os.walk(top)]
print([os.path.join(d, f) for d, files in walked if "/site-packages/" not in d for f in files if f in names])
print([f for d, files in walked if d == "/usr/local/share/ca-certificates" for f in files])
print([k for k in os.environ if k.startswith(("PIP_INDEX", "PIP_EXTRA", "PIP_CERT")) or k.lower().endswith(("proxy", "token", "password"))])
"""
    assert in_image(pool, code, "--user", "0").stdout.splitlines() == ["[]", "[]", "[]"]
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGES[pool]).stdout.lower()
    assert not [word for word in ("index-url", "password", "token", "secret", "trusted-host") if word in history]


@pytest.mark.parametrize("pool", sorted(IMAGES))
def test_the_image_knows_its_commit(pool: str) -> None:
    label = docker("image", "inspect", "-f", '{{index .Config.Labels "org.opencontainers.image.revision"}}', IMAGES[pool]).stdout.strip()
    code = "import json; from mugv.platform.lineage import git_state; print(json.dumps(git_state()))"
    state = json.loads(in_image(pool, code).stdout)
    assert len(state["commit"]) == 40
    assert label == state["commit"] + ("-dirty" if state["dirty"] else "")


def start_command(folder: str) -> str:
    """What a pod of the component runs, given a recipe that is none and inputs that are not there: it ends where the work would begin."""
    component = getattr(importlib.import_module(f"components.{folder}.component"), folder)
    spec = component.component_spec
    container, values, artifacts = spec.implementation.container, {}, {}
    for name, wanted in (spec.inputs or {}).items():
        if "@" in wanted.type:
            artifacts[name] = {"artifacts": [_artifact(name, wanted.type)]}
        else:
            values[name] = 0 if wanted.type == "Integer" else "{"
    made = {name: {"artifacts": [_artifact(name, o.type)]} for name, o in (spec.outputs or {}).items() if "@" in o.type}
    plain = {name: {"outputFile": f"/tmp/{name}"} for name, o in (spec.outputs or {}).items() if "@" not in o.type}
    outputs = {"artifacts": made, "parameters": plain, "outputFile": "/tmp/outputs.json"}
    message = {"inputs": {"parameterValues": values, "artifacts": artifacts}, "outputs": outputs}
    return shlex.join([*container.command, *(a if a != "{{$}}" else json.dumps(message) for a in container.args)])


def _artifact(name: str, kind: str) -> dict[str, Any]:
    title, _, version = kind.partition("@")
    return {"name": name, "type": {"schemaTitle": title, "schemaVersion": version}, "uri": f"/tmp/none/{name}", "metadata": {}}


@pytest.mark.parametrize("folder", COMPONENTS)
def test_a_task_is_at_its_work_within_three_seconds_and_without_heavy_imports(folder: str) -> None:
    """Best of three, from the start of the shell to the end of the interpreter that has read the recipe."""
    code = f"""
import os, subprocess, time
seconds = []
for _ in range(3):
    began = time.time()
    done = subprocess.run(["sh", "-c", {start_command(folder)!r}], capture_output=True, text=True)
    seconds.append(time.time() - began)
print(min(seconds))
environment = {{**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}}
told = subprocess.run(["sh", "-c", {start_command(folder)!r}], capture_output=True, text=True, env=environment)
imported = {{line.rpartition("|")[2].strip() for line in told.stderr.splitlines() if line.startswith("import time:")}}
print(sorted(imported & {HEAVY}), "kfp" in imported)
print(done.returncode, (done.stdout + done.stderr)[-2000:])
"""
    command = ["run", "--rm", "-i", "--network", "none", *CONFINED, *VOLUMES, "--tmpfs", "/mugv:uid=10001", IMAGES[pool_of(folder)]]
    seconds, imported, ended = docker(*command, "python", "-", stdin=code).stdout.split("\n", 2)
    print(f"\n{folder}: {float(seconds):.2f} s")
    assert re.search(r"^mugv-error: (recipe|input)|/tmp/none/", ended, re.MULTILINE), ended
    assert imported == "[] True"
    assert float(seconds) <= START_SECONDS
