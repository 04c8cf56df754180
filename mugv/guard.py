"""Steps that must not touch the weights: a loss or gradient that is not finite, or a gradient far beyond the recent ones.

The rule for the second: refused when norm > `explosion` x the largest norm of the last WINDOW accepted steps, of which there must be
HISTORY. A refused step leaves weights, optimizer and running average as they were. All ranks see the same numbers and decide alike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from mugv.recipe.optimizer import Guard as Settings

WINDOW, HISTORY = 100, 2
NAMED = 8
"""Clips that a message names, at most."""


class RefusedStepError(Exception):
    """A step that was not taken. `fit` skips it while the stage may, and ends the stage otherwise."""

    def __init__(self, reason: str, clips: Sequence[str], may_skip: bool) -> None:
        named = f"; clips {', '.join(clips[:NAMED])}{', ...' if len(clips) > NAMED else ''}" if clips else ""
        super().__init__(f"{reason}{named}")
        self.may_skip = may_skip


class Guard:
    """Judges the steps of one stage; its state goes into the checkpoints, so that a resumed run decides alike."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.skipped = 0

    def reason(self, loss: float, norm: float) -> str | None:
        """Why a step of this loss and gradient norm is refused; None where it is not, and then the norm counts as a recent one."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        largest = max(self.norms, default=0.0)
        if len(self.norms) >= HISTORY and largest > 0 and norm > self.settings.explosion * largest:
            return f"the gradient's norm is {norm:.3g}, {norm / largest:.3g} times the largest of the last {len(self.norms)} steps"
        self.norms.append(norm)
        return None

    def refused(self, reason: str, clips: Sequence[str]) -> RefusedStepError:
        """The exception to raise; counts the step."""
        self.skipped += 1
        return RefusedStepError(reason, clips, self.skipped <= self.settings.skips)

    def forget(self) -> None:
        """What is trained changes: the norms so far say nothing of the next."""
        self.norms.clear()

    def state(self) -> dict[str, Any]:
        return {"norms": list(self.norms), "skipped": self.skipped}

    def load(self, state: dict[str, Any]) -> None:
        self.norms = deque(state["norms"], maxlen=WINDOW)
        self.skipped = state["skipped"]


def from_all_ranks(value: Any) -> list[Any]:
    """The values of all processes, which all call it."""
    found: list[Any] = [value] * (dist.get_world_size() if dist.is_initialized() else 1)
    if len(found) > 1:
        dist.all_gather_object(found, value)
    return found
