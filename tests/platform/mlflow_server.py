"""MLflow as the manifests deploy it: the command line and environment of the container, started here from the lock alone."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from s3_server import free_port

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
PROGRAMS = Path(sys.executable).parent


def rendered(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not installed (it renders the manifests)")
    done = subprocess.run([kubectl, "kustomize", str(MANIFESTS / overlay)], capture_output=True, text=True, timeout=60, check=True)
    return list(yaml.safe_load_all(done.stdout))


@dataclass
class Deployed:
    """The container of the deployment `mlflow`, with what a test puts in the place of the cluster's own things."""

    objects: list[dict[str, Any]]
    folder: Path
    """Stands for what the container may write."""
    replaced: dict[str, str]
    """Text of arguments, variables and mounted files -> what stands for it here."""
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    """Secret -> its values, for those that the overlay leaves to the cluster's owner or fills with placeholders."""
    port: int = field(default_factory=free_port)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        container = self._container()
        return [self._here(part) for part in (*container["command"], *container["args"])]

    def environment(self) -> dict[str, str]:
        """Nothing of this machine's but the programs' place."""
        found: dict[str, str] = {}
        for source in self._container().get("envFrom", []):
            found |= self._map(source["configMapRef"]["name"])
        for variable in self._container().get("env", []):
            found[variable["name"]] = variable.get("value") or self._value(variable["valueFrom"])
        own = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "HOME": str(self.folder), "TMPDIR": str(self.folder)}
        return {name: self._here(value) for name, value in {**found, **own}.items()}

    @contextmanager
    def running(self) -> Iterator[None]:
        """The server, ready; its log is in `server.log`."""
        self._mount_files()
        with (self.folder / "server.log").open("wb") as log:
            process = subprocess.Popen(self.command(), env=self.environment(), cwd=self.folder, stdout=log, stderr=log)
            try:
                self._wait(process)
                yield
            finally:
                process.terminate()
                process.wait(20)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        probe = self._container()["readinessProbe"]["httpGet"]["path"]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urlopen(self.uri + probe, timeout=5) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text()[-4000:])

    def _pod(self) -> dict[str, Any]:
        return dict(self._object("Deployment", "mlflow")["spec"]["template"]["spec"])

    def _container(self) -> dict[str, Any]:
        return dict(self._pod()["containers"][0])

    def _mount_files(self) -> None:
        """Files of config maps and secrets at the place that stands for their mount."""
        volumes = {volume["name"]: volume for volume in self._pod().get("volumes", [])}
        for mount in self._container().get("volumeMounts", []):
            volume = volumes[mount["name"]]
            content = self._map(volume["configMap"]["name"]) if "configMap" in volume else {}
            target = Path(self._here(mount["mountPath"]))
            if content:
                target.mkdir(parents=True, exist_ok=True)
            for name, text in content.items():
                (target / name).write_text(self._here(text))

    def _value(self, source: dict[str, Any]) -> str:
        if "configMapKeyRef" in source:
            return self._map(source["configMapKeyRef"]["name"])[source["configMapKeyRef"]["key"]]
        wanted = source["secretKeyRef"]
        return self.secrets[wanted["name"]][wanted["key"]]

    def _map(self, name: str) -> dict[str, str]:
        return dict(self._object("ConfigMap", name)["data"])

    def _object(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        return dict(found)

    def _here(self, text: str) -> str:
        fixed = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={self.port}", "localhost*,": "localhost*,127.0.0.1*,"}
        for old, new in {**fixed, **self.replaced}.items():
            text = text.replace(old, new)
        return text


def postgres_programs() -> tuple[str, str]:
    """initdb and postgres; the test is skipped where they are not installed."""
    found = [shutil.which(name) or next(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), "") for name in ("initdb", "postgres")]
    if not all(found):
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    return found[0], found[1]


@contextmanager
def postgres(folder: Path, user: str, password: str, database: str) -> Iterator[int]:
    """A database server on loopback that asks for a password; gives its port."""
    initdb, server = postgres_programs()
    folder.mkdir(mode=0o755, parents=True)
    for parent in [folder, *folder.parents][:5]:
        parent.chmod(parent.stat().st_mode | 0o055) if parent.owner() != "root" or os.getuid() == 0 else None
    (folder / "password").write_text(password)
    # PostgreSQL does not run as root.
    other = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if other:
        shutil.chown(folder, "postgres")
    data, port = folder / "data", free_port()
    make = [initdb, "-D", str(data), "-U", user, "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "-N"]
    subprocess.run([*other, *make], check=True, capture_output=True, cwd=folder)
    serve = [server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*other, *serve], stdout=log, stderr=log, cwd=folder)
    try:
        _create_database(port, user, password, database)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _create_database(port: int, user: str, password: str, database: str) -> None:
    import psycopg2

    for _ in range(100):
        try:
            connection = psycopg2.connect(host="127.0.0.1", port=port, user=user, password=password, dbname="postgres")
        except psycopg2.OperationalError:
            time.sleep(0.1)
            continue
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {database}")
        connection.close()
        return
    raise AssertionError("PostgreSQL did not start")
