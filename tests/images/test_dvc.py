"""DVC in the data image, which has no git: a revision of a project is found where the root file system is read-only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.conftest import in_image

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
STEPS = (
    "git init -q -b main",
    "dvc init -q",
    "dvc remote add -q -d store s3://mugv/dvc",
    "mkdir videos",
    "touch videos/a.mp4",
    "dvc add -q videos",
    "git add -A",
    "git commit -qm one",
    "git tag v1",
    "touch videos/b.mp4",
    "dvc add -q videos",
    "git commit -qam two",
)


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """A DVC project of another user's (root's), with a tag `v1` of one video and a head of two."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **IDENTITY, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    with tempfile.TemporaryDirectory(prefix="project-") as folder:
        for step in STEPS:
            subprocess.run(step.split(), cwd=folder, env=environment, check=True, capture_output=True)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        yield Path(folder)


@pytest.mark.parametrize("address", ["/project", "file:///project"])
def test_a_revision_is_resolved_without_git_on_a_read_only_root(address: str, project: Path) -> None:
    code = f"""
from mugv.platform.dvc_data import resolve
old, new = (resolve({address!r}, "videos", revision) for revision in ("v1", "main"))
print(old.url.startswith("s3://mugv/dvc/files/md5/"), len(old.commit), old.md5 != new.md5, old.md5.endswith(".dir"))
"""
    assert in_image("data", code, "-v", f"{project}:/project:ro").stdout.splitlines()[-1] == "True 40 True True"
