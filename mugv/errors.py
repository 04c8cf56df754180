"""The errors that a user can cause or must see. The command line prints them as one line and exits with code 2."""

from mugv.redact import redact


def one_line(text: str) -> str:
    """Names and values are anyone's: line breaks become spaces, other characters that no terminal should get are escaped."""
    return "".join(c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)


class UserError(ValueError):
    """A mistake in the input: the message names the file or key, what is wrong and what would be right, and no secret of a URI."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(redact(str(message))))


class MissingFeatureError(UserError):
    """A recipe asks for something that this release does not do."""


class StoreError(UserError):
    """The object store or the state folder cannot be used (full disk, read-only, wrong credentials)."""


class ServiceAwayError(StoreError):
    """A service does not answer, or a volume is full or lost: the same again may go well. A task ends with EXIT_TRY_AGAIN."""


EXIT_USER, EXIT_TRY_AGAIN, EXIT_STOPPED = 2, 75, 143
"""Exit codes of a task's process beside 0: the user's mistake; the same again may go well (a service is away); stopped and saved."""


class StoppedError(SystemExit):
    """A training ended by a signal, after its checkpoint. Uncaught it gives the shell's exit code, which is EXIT_STOPPED for SIGTERM."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(128 + number)
        self.where = where

    def __str__(self) -> str:
        return f"stopped {self.where}"
