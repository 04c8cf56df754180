"""A DVC project behind a URL: what `mugv schedule` can know of it, and the keys that its tasks use."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import KEYS, free_port, served

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "unit"))

from kfp_recorder import Recorder, recording_server  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from mugv.cli.main import app  # noqa: E402
from mugv.errors import UserError  # noqa: E402
from mugv.platform.dvc_data import fetch, resolve  # noqa: E402
from mugv.platform.dvc_remote import address, look  # noqa: E402


def call(folder: Path, home: Path, *command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "HOME": str(home), "PATH": path, "DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`videos` under DVC at the tag v1, pushed to s3://bucket/dvc once a server is there."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("projects") / "footage"
    (home / ".gitconfig").write_text("[user]\n name = test\n email = test@example.org\n[init]\n defaultBranch = main\n")
    (folder / "videos").mkdir(parents=True)
    (folder / "videos" / "a.mp4").write_bytes(b"video")
    for command in (
        ("git", "init", "-q"),
        ("dvc", "init", "-q"),
        ("dvc", "remote", "add", "-q", "-d", "store", "s3://bucket/dvc"),
        ("dvc", "add", "-q", "videos"),
        ("git", "add", "-A"),
        ("git", "commit", "-q", "-m", "one"),
        ("git", "tag", "v1"),
    ):
        call(folder, home, *command)
    return folder


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    port = free_port()
    command = ["git", "daemon", "--export-all", f"--base-path={project.parent}", "--listen=127.0.0.1", f"--port={port}", "--reuseaddr"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"git://127.0.0.1:{port}/footage"
    for _ in range(100):
        if subprocess.run(["git", "ls-remote", address], capture_output=True).returncode == 0:
            break
        time.sleep(0.05)
    yield address
    # git starts the daemon as a process of its own.
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording_server() as server:
        yield server


def schedule(recorder: Recorder, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["schedule", "--cron", "0 0 3 * * *", "--endpoint", recorder.url, *options])
    return done.exit_code, done.output


def test_a_schedule_carries_the_project_s_address(url: str, recorder: Recorder) -> None:
    code, output = schedule(recorder, "--repository", url, "--revision", "v1")
    assert (code, output.strip().splitlines()[-1]) == (0, "recurring run j-1")
    root = recorder.body("recurringruns")["pipeline_spec"]["pipeline_spec"]["root"]
    given = {name: p.get("defaultValue") for name, p in root["inputDefinitions"]["parameters"].items()}
    assert (given["repository"], given["path"], given["revision"]) == (url, "videos", "v1")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--revision", "v2"), "revision 'v2' not found"),
        (("--revision", "0" * 40), "revision '0{40}' not found"),
        (("--path", "clips"), "'clips' is not tracked"),
    ],
)
def test_what_dvc_does_not_know_is_refused_before_anything_is_sent(
    url: str, recorder: Recorder, options: tuple[str, ...], why: str
) -> None:
    with pytest.raises(UserError, match=why) as caught:
        look(url, dict([options]).get("--path", "videos"), dict([options]).get("--revision", ""))
    assert "\n" not in str(caught.value)
    code, output = schedule(recorder, "--repository", url, *options)
    assert code == 2
    assert output.startswith("error: DVC")
    assert recorder.calls == []


def test_a_project_that_cannot_be_seen_from_here_is_scheduled_with_a_note(recorder: Recorder) -> None:
    code, output = schedule(recorder, "--repository", f"git://127.0.0.1:{free_port()}/x", "--revision", "v1")
    assert code == 0, output
    assert "cannot be asked from here" in output


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            ("--repository", "https://anna:geheim@example.org/x.git"),
            "must not hold a user or a password; put them into the secret mugv-git",
        ),
        (("--repository", "https://geheim@example.org/x.git"), "must not hold a user or a password"),
        (("--repository", "https://example.org/x.git?private_token=geheim"), "must not hold a user or a password"),
        (("--revision", "v1"), "--revision: needs --repository"),
        (("--repository", "footage"), "a folder of this machine, which no task can read"),
        (("--repository", "--upload-pack=touch /tmp/x"), "not an address"),
        (("--repository", "https://example.org/x.git", "--pipeline", "train"), "are for --pipeline retrain"),
    ],
)
def test_addresses_that_no_task_could_use_are_refused(recorder: Recorder, options: tuple[str, ...], why: str) -> None:
    code, output = schedule(recorder, *options)
    assert code == 2
    assert why in output
    assert "geheim" not in output
    assert recorder.calls == []


def test_a_token_of_the_environment_goes_to_the_repository_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUGV_GIT_TOKEN", "a/b")
    assert address("https://example.org/x.git") == "https://git:a%2Fb@example.org/x.git"
    assert address("http://example.org/x.git") == "http://example.org/x.git"
    assert address("git@example.org:x.git") == "git@example.org:x.git"


def test_a_task_fetches_the_data_with_the_store_s_keys(url: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path, monkeypatch) as server:
        here = f"http://127.0.0.1:{server.port}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MINIO_ENDPOINT"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", here)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
        call(project, tmp_path, "dvc", "push", "-q")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("MUGV_S3_ENDPOINT", here)
        monkeypatch.setenv("MUGV_S3_ACCESS_KEY", KEYS[0])
        monkeypatch.setenv("MUGV_S3_SECRET_KEY", KEYS[1])
        try:
            folder = fetch(resolve(url, "videos", "v1"), url, tmp_path / "data")
        finally:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
                os.environ.pop(name, None)
        assert (folder / "a.mp4").read_bytes() == b"video"
