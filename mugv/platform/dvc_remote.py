"""The way to a DVC project that lies elsewhere: its credentials by the environment, and a look at it before anything is scheduled."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from mugv.errors import UserError
from mugv.redact import has_secrets, redact
from mugv.store.uri import file_path, scheme_of

GIT_USER, GIT_TOKEN = "MUGV_GIT_USER", "MUGV_GIT_TOKEN"
"""User and token of a repository behind https; tasks have them from the secret `mugv-git`."""
SECONDS = 20
"""That a repository may take to say which branches and tags it has."""
_S3 = {
    "AWS_ACCESS_KEY_ID": "MUGV_S3_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY": "MUGV_S3_SECRET_KEY",
    "AWS_ENDPOINT_URL_S3": "MUGV_S3_ENDPOINT",
    "AWS_CA_BUNDLE": "MUGV_S3_CA",
}
"""What DVC's S3 remote reads, and ours that stands for it."""


def check_address(repository: str, path: str, revision: str) -> None:
    """Raise UserError for an address with a password in it, and for a path or revision of nothing."""
    if not repository:
        if path or revision:
            raise UserError(f"--{'path' if path else 'revision'}: needs --repository, the DVC project (a URL) that holds it")
        return
    if any(any(ord(c) < 32 for c in text) for text in (repository, path, revision)) or repository.startswith("-"):
        raise UserError("--repository: not an address; give the URL of a git repository with a DVC project")
    try:
        user, password = urlsplit(repository).username, urlsplit(repository).password
    except ValueError:
        raise UserError("--repository: not an address; give the URL of a git repository with a DVC project") from None
    # The user of ssh://git@host is no secret.
    if password or (user and repository.startswith("http")) or has_secrets(repository.replace("//git@", "//")):
        raise UserError(
            f"--repository: must not hold a user or a password; put them into the secret mugv-git ({GIT_USER}, {GIT_TOKEN}) and here into"
            " the environment"
        )


def look(repository: str, path: str, revision: str) -> str:
    """Whether DVC knows the path at the revision, as far as this machine can see: a note on what it cannot see, or "".

    Raises UserError for a revision or path that is not there, and for an address that no task can reach.
    """
    check_address(repository, path, revision)
    if not repository:
        return ""
    if scheme_of(repository) in ("", "file") and not _is_ssh(repository):
        return _look_here(repository, file_path(repository), path, revision)
    reason = _unreachable(repository)
    if reason:
        return f"--repository: {repository} cannot be asked from here ({reason}), so nobody has checked --path and --revision"
    from mugv.platform.dvc_data import resolve

    resolve(repository, path, revision or None)
    return ""


def _look_here(repository: str, folder: Path, path: str, revision: str) -> str:
    from mugv.platform.dvc_data import resolve

    if folder.is_dir():
        resolve(folder, path, revision or None)
    if not folder.is_absolute():
        raise UserError(f"--repository: {repository} is a folder of this machine, which no task can read; give the URL of its remote")
    return f"--repository: {repository} is a folder; the tasks must find it at that path, on a volume"


def address(repository: str | Path) -> str:
    """The repository with user and token of the environment, where it is behind https; for its use alone, never to be shown."""
    parsed, token = urlsplit(str(repository)), os.environ.get(GIT_TOKEN, "")
    if not token or parsed.scheme != "https" or parsed.username:
        return str(repository)
    user = os.environ.get(GIT_USER) or "git"
    return urlunsplit(parsed._replace(netloc=f"{quote(user, safe='')}:{quote(token, safe='')}@{parsed.netloc}"))


def give_keys() -> None:
    """Let DVC's S3 remote use the store's keys, where it has none of its own."""
    if os.environ.get("MUGV_S3_ACCESS_KEY") and not os.environ.get("AWS_ACCESS_KEY_ID"):
        for theirs, ours in _S3.items():
            if os.environ.get(ours):
                os.environ.setdefault(theirs, os.environ[ours])


def _is_ssh(repository: str) -> bool:
    """git@host:path, which has no scheme."""
    return bool(re.match(r"[\w.-]+@[\w.-]+:", repository))


def _unreachable(repository: str) -> str:
    """Why git cannot list the repository's references from here; "" where it can."""
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10"}
    command = ["git", "ls-remote", "--quiet", "--", address(repository), "HEAD"]
    try:
        done = subprocess.run(
            command, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return "git is not installed"
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return "" if done.returncode == 0 else redact(lines[-1] if lines else f"git ended with {done.returncode}")[:160]
