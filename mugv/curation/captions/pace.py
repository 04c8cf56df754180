"""When a request may go out: so many a minute, not while the server asked to wait, and none at all once it is plainly gone."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from mugv.curation.captions.model import NoAnswerError

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0


@dataclass
class Pace:
    """Shared by all requests of a stage."""

    requests_a_minute: int | None
    give_up_after: int
    """Clips in a row that got no answer before the rest is not asked any more."""
    closed: NoAnswerError | None = None
    """Why nothing is asked any more."""
    well: bool = False
    """The server has answered before."""
    _next: float = 0.0
    _paused_until: float = 0.0
    _lost: int = 0

    async def turn(self) -> None:
        """Returns when the next request may go out."""
        now = time.monotonic()
        slot = max(now, self._next)
        if self.requests_a_minute:
            self._next = slot + 60.0 / self.requests_a_minute
        await asyncio.sleep(slot - now)
        while (left := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def answered(self) -> None:
        self._lost, self.well = 0, True

    def lost(self, error: NoAnswerError) -> None:
        """A clip has used up its attempts without an answer. One that a well server refuses says nothing about the others."""
        if self.well and not error.again:
            return
        self._lost += 1
        if self._lost >= self.give_up_after:
            self.closed = NoAnswerError(error.reason, error.detail)

    async def back_off(self, error: NoAnswerError, attempt: int) -> None:
        """Wait before attempt `attempt` + 1 of a clip: as long as the server says, else twice as long each time, with some chance.

        What says that the server has too much to do (429, 503, Retry-After) holds all requests back.
        """
        own = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt) * random.uniform(0.75, 1.25)
        wait = own if error.wait_seconds is None else min(error.wait_seconds, 10 * LONGEST_WAIT_SECONDS)
        if error.wait_seconds is not None or error.reason in {"429", "503"}:
            self._paused_until = max(self._paused_until, time.monotonic() + wait)
        await asyncio.sleep(wait)
