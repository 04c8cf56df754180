"""This machine or pod: the state folder, the GPU driver, git, images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import urllib3

from mugv.errors import UserError
from mugv.platform.doctor import Finding, ok, skipped, wrong
from mugv.recipe import Recipe

LEAST_GIGABYTES = 5
SHARED = {"nfs", "nfs4", "ceph", "fuse.glusterfs", "lustre", "beegfs", "gpfs", "cifs", "smb3", "virtiofs", "9p", "fuse.juicefs", "wekafs"}
"""File systems that several nodes can mount at once."""
MANIFESTS = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"


def state(folder: Path) -> Iterator[Finding]:
    """Whether the state folder takes files of this user, by renaming, with some room."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    who = f"user {os.getuid()}"
    try:
        with tempfile.TemporaryDirectory(prefix=".mugv-doctor-", dir=place) as scratch:
            first, second = Path(scratch) / "a", Path(scratch) / "b"
            first.write_text("new")
            second.write_text("old")
            descriptor = os.open(first, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            first.replace(second)
            whole = second.read_text() == "new"
        free = shutil.disk_usage(place).free / 1e9
    except OSError as error:
        owner = f"it belongs to {place.stat().st_uid}:{place.stat().st_gid}" if place.exists() else ""
        yield wrong("state", f"{folder}: {error.strerror} for {who}; {owner}", f"let {who} write there: fsGroup of the pods, or chown")
        return
    kind = _file_system(place)
    if not whole:
        yield wrong(
            "state", f"{folder}: renaming a file over another does not replace it", "use a POSIX file system, no object store mount"
        )
    elif free < LEAST_GIGABYTES:
        yield wrong("state", f"{folder}: {free:.1f} GB free", f"make room: at least {LEAST_GIGABYTES} GB, more for checkpoints")
    else:
        yield ok("state", f"{folder}: {who} writes and renames, {free:.0f} GB free, {kind}")
    if os.environ.get("KUBERNETES_SERVICE_HOST") and kind not in SHARED:
        # Not known to be wrong: tasks of one node may share it.
        yield skipped("state sharing", f"{kind} may be of one node alone; tasks on several nodes need a ReadWriteMany volume")


def _file_system(path: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "file system unknown"
    real = path.resolve()
    found = [(len(fields[1]), fields[2]) for fields in mounts if len(fields) > 2 and real.is_relative_to(fields[1].replace("\\040", " "))]
    return max(found)[1] if found else "file system unknown"


def gpu() -> Iterator[Finding]:
    """Whether the driver and torch fit, where there is a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None and not Path("/dev/nvidiactl").exists():
        yield skipped("GPU", "none on this machine")
        return
    if program is None:
        yield wrong("GPU", "a device and no nvidia-smi", "give the container NVIDIA_DRIVER_CAPABILITIES=compute,utility")
        return
    ask = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=15)
    if done.returncode:
        yield wrong("GPU", f"nvidia-smi: {(done.stdout + done.stderr).strip()[:160]}", "mend the driver, or ask for a GPU in the task")
        return
    cards = done.stdout.strip().splitlines()
    yield ok("GPU", f"{len(cards)} x {cards[0]}")
    yield _torch(cards[0].rpartition(", ")[2])


def _torch(driver: str) -> Finding:
    try:
        import torch
    except ImportError:
        return skipped("GPU and torch", "torch is not in this image")
    built = torch.version.cuda
    if built is None:
        return wrong("GPU and torch", "this torch is built without CUDA", "use the image for training with a CUDA base and the extra gpu")
    try:
        torch.zeros(1, device="cuda")
    except Exception as error:  # torch raises RuntimeError, AssertionError and its own, all of which mean the same here
        said = str(error).strip().splitlines()[0][:120]
        return wrong(
            "GPU and torch", f"driver {driver} does not run torch's CUDA {built} ({said})", "update the driver, or use an older CUDA"
        )
    return ok("GPU and torch", f"driver {driver} runs torch {torch.__version__} with CUDA {built}")


def git() -> Iterator[Finding]:
    """git finds the revision of the code and reaches DVC's repository; an image knows its revision without."""
    program = shutil.which("git")
    if program:
        yield ok("git", subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10).stdout.strip())
    elif os.environ.get("MUGV_GIT_COMMIT"):
        yield ok("git", f"not here; the image is of revision {os.environ['MUGV_GIT_COMMIT'][:12]}")
    else:
        yield wrong("git", "not installed, and MUGV_GIT_COMMIT is not set: no run will know its code's revision", "install git")


def dvc(repository: str, path: str, revision: str) -> Iterator[Finding]:
    """The DVC project of retraining: repository, path, revision, its remote."""
    if not repository:
        yield skipped("DVC", "no project is named; give --repository to look at it")
        return
    from mugv.platform.dvc_remote import look

    note = look(repository, path or "videos", revision)
    yield skipped("DVC", note) if note else ok("DVC", f"{path or 'videos'} of {repository}{f' at {revision}' if revision else ''} is known")


def images(recipe: Recipe) -> Iterator[Finding]:
    """Whether the registry has the images that the recipe names, as far as it tells a stranger."""
    for key in ("image_data", "image_train"):
        yield _image(f"resources.{key}", getattr(recipe.resources, key))


def _image(key: str, image: str) -> Finding:
    host, _, rest = image.partition("/")
    if not rest or not re.search(r"[.:]|^localhost$", host):
        return skipped(key, f"{image} names no registry; the nodes must have it, or find it where they look by default")
    name, _, digest = rest.partition("@")
    name, _, tag = name.partition(":")
    scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
    pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=4, read=8), retries=False)
    try:
        url = f"{scheme}://{host}/v2/{name}/manifests/{digest or tag or 'latest'}"
        answer = pool.request("GET", url, headers={"Accept": f"{MANIFESTS}, {DOCKER}"}, redirect=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return skipped(key, f"{image}: the registry does not answer from here ({type(error).__name__})")
    if answer.status == 404:
        return wrong(key, f"{image}: the registry {host} has no such image", "push it, or name another one in the recipe")
    if answer.status in (401, 403):
        return skipped(key, f"{image}: the registry wants a login; the nodes need an image pull secret")
    return ok(key, f"{image} is there") if answer.status == 200 else skipped(key, f"{image}: the registry answers {answer.status}")


def files(recipe: Recipe) -> Iterator[Finding]:
    """What of the recipe would be carried into the store, and what the tasks must find by themselves."""
    from mugv.platform.carry import carry_files, files_of
    from mugv.store.carried import check_size

    named: list[str] = []

    def measured(path: Path, key: str) -> str:
        check_size(path, key, files_of(key))
        named.append(key)
        return f"s3://bucket/carried/{'0' * 64}/file"

    try:
        _, notes = carry_files(recipe, measured)
    except UserError as error:
        yield wrong("files of the recipe", str(error))
        return
    yield ok("files of the recipe", f"carried into the store: {', '.join(named) or 'none'}{''.join(f'; {note}' for note in notes)}")
