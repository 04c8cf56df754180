"""Second tries of a task: how its process ends, what of a user's error is remembered for them, and how long a service is waited for.

A cluster starts a failed task again whatever it failed of. So a user's error is told again at once, from the run's record, by every try
that follows the last one within REMEMBERED_SECONDS with the same settings (addresses, keys, image): automatic tries do. One that a person
starts later, or with other settings, looks again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mugv.errors import EXIT_TRY_AGAIN, EXIT_USER, ServiceAwayError, UserError
from mugv.platform.records import ERROR_MARK, DamagedRecordError, RunRecord
from mugv.store.base import PATIENCE

logger = logging.getLogger(__name__)

REMEMBERED_SECONDS = 600.0
PATIENCE_SECONDS = 1800.0
"""How long a task waits for a service in its own process, before it uses up one of the cluster's tries; PATIENCE in the environment."""
LONGEST_PAUSE_SECONDS = 60.0
_AWAY = "MUGV_AWAY"
"""Environment variable from one start of the process to the next: since when a service is away, and how often it was waited for."""
_SETTINGS = ("MUGV_STORE", "MUGV_S3_", "MUGV_STATE", "MUGV_IMAGE", "MUGV_GIT", "AWS_", "MINIO_", "MLFLOW_TRACKING_")
"""Beginnings of the variables of services and image. Others name the pod or the try."""


@contextmanager
def exit_codes(waits: bool) -> Iterator[None]:
    """End the process as its caller reads it: 2 for a user's error, 75 for a service that is away, each after one line.

    `waits`: wait for a service that is away and start the process anew; a stage goes on from its checkpoints then.
    """
    if waits:
        os.environ.setdefault(PATIENCE, str(PATIENCE_SECONDS))
    try:
        yield
    except ServiceAwayError as error:
        print(f"{ERROR_MARK}{error}", flush=True)
        if waits:
            _start_again()
        raise SystemExit(EXIT_TRY_AGAIN) from None
    except UserError as error:
        print(f"{ERROR_MARK}{error}", flush=True)
        raise SystemExit(EXIT_USER) from None


def _start_again() -> None:
    """Returns when patience is at its end."""
    since, _, times = os.environ.get(_AWAY, f"{time.time()} 0").partition(" ")
    pause = min(5.0 * 2 ** min(int(times), 8), LONGEST_PAUSE_SECONDS)
    if time.time() + pause - float(since) > float(os.environ[PATIENCE]):
        return
    print(f"waiting {pause:.0f} s for it, then this task goes on", flush=True)
    time.sleep(pause)
    os.environ[_AWAY] = f"{since} {int(times) + 1}"
    os.execv(sys.executable, sys.orig_argv)


def remembered(run: RunRecord, node: str) -> UserError | None:
    """The error of the try before, when this one can only end in the same."""
    try:
        record = run.stage(node)
    except DamagedRecordError:
        return None
    recent = time.time() - record.get("ended", 0.0) < REMEMBERED_SECONDS
    if record.get("status") != "failed" or not recent or record.get("settings") != settings(run.run):
        return None
    logger.info("as in the try before; looked at again %.0f minutes after the last try, or with other settings", REMEMBERED_SECONDS / 60)
    return UserError(record["error"])


def settings(run: str) -> str:
    """Digest of what the environment says about services, keys and image: what a person mends when it is not the data."""
    given = {k: v for k, v in os.environ.items() if k.startswith(_SETTINGS)}
    return hashlib.sha256(repr((run, sorted(given.items()))).encode()).hexdigest()[:16]
