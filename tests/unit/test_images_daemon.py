"""What `make images` says where it cannot go on: one line, with what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from images.daemon import needed

SCRIPT = Path(__file__).resolve().parents[2] / "images" / "daemon.py"


def test_a_missing_program_names_its_package_to_whom_may_not_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        SystemExit, match=r"^no-such-program is missing: install some-package \(Debian's name\), or run this as root on Debian$"
    ):
        needed("no-such-program", "some-package")
    needed("sh", "dash")


def test_a_daemon_that_cannot_be_started_is_told_with_its_own_reason_and_leaves_nothing(tmp_path: Path) -> None:
    daemon = tmp_path / "dockerd"
    daemon.write_text("#!/bin/sh\necho starting >&2\necho 'failed to start daemon: no bridge' >&2\nexit 1\n")
    daemon.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:/bin", "DOCKER_HOST": "unix:///nonexistent", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "sh", "-c", "echo must not run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "no Docker daemon answers and none can be started here: failed to start daemon: no bridge\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dockerd"]
