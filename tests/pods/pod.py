"""One pod: a process of its own user with an empty disk, a read-only root, process id 1 and nothing of this project but the installed copy.

The root is a skeleton with /usr, the interpreter and its packages bound read-only; /tmp, HOME and KFP's scratch folders are the pod's own
and go with it; volumes are bound where the task mounts them. Needs root (mount and process namespaces by `unshare`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
USER = 10001
SCRATCH = ("tmp", "home/mugv", "minio", "s3", "gcs", ".cache", ".local", ".config")
"""Folders that a pod may write: its own volumes, and those that KFP adds to every task for its launcher."""
DEVICES = ("null", "zero", "random", "urandom", "full")
SYSTEM = ("/usr", "/etc/ssl", "/etc/alternatives", "/etc/ld.so.cache")


def missing() -> str:
    """What this machine lacks for pods, in one line; "" for nothing."""
    if os.geteuid():
        return "pods need root: mount and process namespaces, and a user of their own"
    if not all(shutil.which(name) for name in ("unshare", "setpriv", "chroot", "mount")):
        return "pods need unshare, setpriv, chroot and mount (Debian: util-linux, coreutils)"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
    )
    return "" if tried.returncode == 0 else f"pods need namespaces: {tried.stderr.decode().strip()}"


@dataclass
class Image:
    """What an image has: the installed copy of this project, without its source, and the environment of the Containerfile."""

    folder: Path
    skeleton: Path = field(init=False)

    def __post_init__(self) -> None:
        self.installed, self.skeleton = self.folder / "installed", self.folder / "skeleton"

    def build(self) -> Image:
        """Install as the Containerfiles do: what they copy, by pip, without what it depends on."""
        with tempfile.TemporaryDirectory() as made:
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(ROOT / name, made)
            for name in ("mugv", "pipelines", "components"):
                shutil.copytree(ROOT / name, Path(made) / name, ignore=shutil.ignore_patterns("__pycache__"))
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-compile"]
            subprocess.run([*install, "--target", str(self.installed), made], check=True, capture_output=True)
            subprocess.run([sys.executable, "-m", "compileall", "-q", str(self.installed)], check=True)
        self._make_skeleton()
        return self

    def _make_skeleton(self) -> None:
        for name in (*SCRATCH, "proc", "dev/shm", "mugv", "etc", *(m.lstrip("/") for m in self.read_only())):
            (self.skeleton / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.skeleton / name).symlink_to(f"usr/{name}")
        (self.skeleton / "etc/ld.so.cache").rmdir()
        for name in (*(f"dev/{d}" for d in DEVICES), "etc/ld.so.cache"):
            (self.skeleton / name).touch()
        (self.skeleton / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\nmugv:x:{USER}:{USER}::/home/mugv:/bin/sh\n")
        (self.skeleton / "etc/group").write_text(f"root:x:0:\nmugv:x:{USER}:\n")
        (self.skeleton / "etc/hosts").write_text("127.0.0.1 localhost\n")
        for path in (self.folder, self.skeleton, *self.skeleton.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)

    def read_only(self) -> dict[str, str]:
        """Place in the pod -> what is bound there."""
        return {**{name: name for name in SYSTEM}, **{p: p for p in (sys.base_prefix, sys.prefix)}, "/opt/app": str(self.installed)}

    def environment(self) -> dict[str, str]:
        """ENV of the final stage of the images' Containerfile, and where the packages are here."""
        text = (ROOT / "images" / "Containerfile").read_text().rpartition("\nFROM ")[2]
        lines = re.sub(r"\\\n", " ", text).replace("${REVISION}", "0" * 40).splitlines()
        given = dict(word.split("=", 1) for line in lines if line.startswith("ENV ") for word in shlex.split(line[4:]))
        return {**given, "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": "/opt/app"}


@dataclass
class Pod:
    """A command in an image. `volumes`: place in the pod -> folder of this machine."""

    image: Image
    command: list[str]
    environment: dict[str, str]
    volumes: dict[str, Path]
    folder: Path
    """For the pod's own disk and its log; must not exist yet."""
    process: subprocess.Popen[bytes] | None = None
    seconds: float = 0.0
    """How long it ran."""

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> Pod:
        (self.folder / "root").mkdir(parents=True)
        for name in SCRATCH:
            (self.disk / name).mkdir(parents=True, exist_ok=True)
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(self.disk)], check=True)
        enter = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--propagation", "private"]
        inside = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "env", "-i"]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        command = [*enter, "sh", "-ec", self._mounts(), "pod", "chroot", str(self.folder / "root"), *inside, *variables, *self.command]
        self._began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        return self

    def wait(self, timeout: float | None = None) -> int:
        """Exit code; 128 + signal as a container runtime gives it."""
        assert self.process is not None
        code = self.process.wait(timeout)
        self.seconds = time.monotonic() - self._began
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """SIGKILL to every process of the pod: its first process goes with `unshare`, the others with that one."""
        assert self.process is not None
        self.process.kill()

    def terminate(self) -> None:
        """SIGTERM to every process of the pod, as a kubelet's to a container whose first process passes it on."""
        import psutil

        assert self.process is not None
        for process in reversed(psutil.Process(self.process.pid).children(recursive=True)):
            os.kill(process.pid, signal.SIGTERM)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def _mounts(self) -> str:
        root = self.folder / "root"
        lines = [f"mount --bind {self.image.skeleton} {root}"]
        for place, source in self.image.read_only().items():
            lines += [f"mount --bind {source} {root}{place}", f"mount -o remount,bind,ro {root}{place}"]
        lines += [f"mount --bind /dev/{name} {root}/dev/{name}" for name in DEVICES]
        lines += [f"mount --bind {self.disk}/{name} {root}/{name}" for name in SCRATCH]
        lines += [f"mount --bind {shlex.quote(str(source))} {root}{place}" for place, source in self.volumes.items()]
        lines += [
            f"mount -o remount,bind,ro {root}",
            f"mount -t proc proc {root}/proc",
            f"mount -t tmpfs tmpfs {root}/dev/shm",
            'exec "$@"',
        ]
        return "\n".join(lines)
