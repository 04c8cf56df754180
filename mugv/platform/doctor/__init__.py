"""What a deployment lacks, each a line with how to mend it. Every check is short, and none depends on another's success."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import asdict, dataclass
from typing import Literal

from mugv.errors import UserError, one_line
from mugv.redact import redact

SECONDS = 30
"""That a check may take; each call in it has a shorter limit of its own."""


@dataclass(frozen=True)
class Finding:
    """What one check saw. `skipped`: not looked at, with the reason; it counts as no fault."""

    check: str
    state: Literal["ok", "wrong", "skipped"]
    said: str
    mend: str = ""

    def line(self) -> str:
        return f"{self.state:8}{self.check}: {self.said}{f'; {self.mend}' if self.mend else ''}"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


Check = Callable[[], Iterable[Finding]]


def ok(check: str, said: str) -> Finding:
    return Finding(check, "ok", _clean(said))


def wrong(check: str, said: str, mend: str = "") -> Finding:
    return Finding(check, "wrong", _clean(said), mend)


def skipped(check: str, said: str) -> Finding:
    return Finding(check, "skipped", _clean(said))


def examine(checks: dict[str, Check]) -> list[Finding]:
    """All findings, in the order of the checks; a check that fails by itself is a finding, too."""
    pool = ThreadPoolExecutor(len(checks))
    try:
        running = {name: pool.submit(_all, name, check) for name, check in checks.items()}
        return [finding for name, future in running.items() for finding in _result(name, future)]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _all(name: str, check: Check) -> list[Finding]:
    found = []
    try:
        for finding in check():
            found.append(finding)
    except UserError as error:
        found.append(wrong(name, str(error)))
    except Exception as error:  # a check of a part that is broken must not hide what the others found
        found.append(wrong(name, f"{type(error).__name__}: {error}"))
    return found


def _result(name: str, future: Future[list[Finding]]) -> list[Finding]:
    try:
        return future.result(SECONDS)
    except TooLate:
        return [wrong(name, f"no answer within {SECONDS} s")]


def _clean(text: str) -> str:
    return one_line(redact(text))
