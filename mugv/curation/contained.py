"""Which errors are a source's own loss, and which the run's."""

from __future__ import annotations

import errno

from mugv.curation.download import Lost
from mugv.errors import UserError
from mugv.media.decoder import DecoderEndedError
from mugv.redact import redact

DETAIL = 300
"""Characters of an error that a row holds."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)


def of_the_run(error: Exception) -> bool:
    """Whether other sources would raise it too: the recipe's mistakes, a package that is missing, a full disk, being stopped."""
    if isinstance(error, DecoderEndedError):
        return error.stopped
    return isinstance(error, (UserError, ImportError)) or (isinstance(error, OSError) and error.errno in FULL)


def failed(error: Exception) -> Lost:
    """What is said of a source that raised it."""
    said = " ".join(redact(f"{type(error).__name__}: {error}").split())
    return Lost("failed", said[:DETAIL])
