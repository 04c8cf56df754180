"""How often to save: the interval between checkpoints from failures and write time, and the goodput that comes of it.

Goodput is the share of the wall time whose steps are kept. It is lost to checkpoints (the loop stands still), to steps that are
repeated after a failure, and to the failures themselves (until they are noticed, and until the first new step).

Legend, all in seconds: M mean time between failures, I interval of training between two saves, D stall of the loop at a save, W from a
save's begin until it can be loaded (W = D when the loop waits for it), N until a failure is noticed, R restart.
J. Young, A first order approximation to the optimum checkpoint interval, CACM 17(9), 1974; J. Daly, A higher order estimate of the
optimum checkpoint interval for restart dumps, FGCS 22(3), 2006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DAY = 86400.0
LLAMA_3, STEP_VIDEO = 0.485, 0.095
"""Unexpected stops per 1,000 GPUs a day: Llama 3.1 405B (16,384 H100), and Step-Video-T2V, which reports both (arXiv 2502.10248, 6.5)."""
STALL_SHARE = 0.05
"""Share of an asynchronous write's time that the loop stands still, at most."""
TRIES = 1000


@dataclass(frozen=True)
class Failures:
    """How often a job stops without being asked to, and what each stop costs before the first repeated step."""

    rate: float = LLAMA_3
    """Per 1,000 GPUs a day."""
    notice: float = 120.0
    restart: float = 600.0

    def between(self, gpus: int) -> float:
        """M of a job that any one of its GPUs stops; infinite for a rate of 0."""
        return DAY / (self.rate * gpus / 1000) if self.rate else math.inf


@dataclass(frozen=True)
class Save:
    """A checkpoint's way to the storage."""

    bytes: float
    bandwidth: float
    """Bytes a second of all writers together."""
    stall_share: float = 1.0
    """1: the loop waits until it is written."""

    @property
    def write(self) -> float:
        return self.bytes / self.bandwidth

    @property
    def stall(self) -> float:
        return self.write * self.stall_share


def checkpoint_bytes(parameters: int, average: bool, bf16: bool = True) -> int:
    """Of a training checkpoint: fp32 masters and two moments, the bf16 weights beside them, and the running average where there is one."""
    return parameters * (4 + 4 + 4 + (2 if bf16 else 0) + (4 if average else 0))


def young(stall: float, between: float) -> float:
    """I = sqrt(2 D M)."""
    return math.sqrt(2 * stall * between)


def daly(stall: float, between: float) -> float:
    """The higher-order estimate: Young's with two terms more, less the stall; M where a save takes more than twice as long as that."""
    if stall >= 2 * between:
        return between
    ratio = stall / (2 * between) if math.isfinite(between) else 0.0
    return young(stall, between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall


def recommended(save: Save, between: float) -> float:
    """Daly's interval, and no shorter than a write, which a second one would have to wait for."""
    return max(daly(save.stall, between), save.write - save.stall)


def expected(interval: float, save: Save, failures: Failures, between: float) -> float:
    """Goodput in the long run, exactly, for failures at a constant rate that also strike during restarts.

    After each failure the job runs for a time U, exponential with mean M; P(U > I + W + (j - 1) (I + D)) is the chance of a j-th save.
    With W = D and N = 0 this is I over Daly's exact M exp(R / M) (exp((I + D) / M) - 1).
    """
    cycle = interval + save.stall
    if math.isinf(between):
        return interval / cycle
    saves = math.exp(-(interval + save.write) / between) / -math.expm1(-cycle / between)
    return interval * saves / (math.exp(failures.restart / between) * (between + failures.notice))


@dataclass(frozen=True)
class Simulated:
    """Shares of the wall time, which add up to 1."""

    goodput: float
    error: float
    """Standard error of the goodput."""
    saving: float
    repeated: float
    down: float


def simulate(interval: float, save: Save, failures: Failures, between: float, tries: int = TRIES, seed: int = 0) -> Simulated:
    """Play `tries` failures, save by save. Independent of `expected`, which it is to confirm."""
    if math.isinf(between):
        share = expected(interval, save, failures, between)
        return Simulated(share, 0.0, 1 - share, 0.0, 0.0)
    random = np.random.default_rng(seed)
    played = np.array([_try(interval, save, failures, between, random) for _ in range(tries)])
    useful, saving, repeated, down = played.sum(axis=0) / played.sum()
    wall = played.sum(axis=1)
    spread = played[:, 0] - useful * wall  # of a ratio of two means
    return Simulated(useful, float(spread.std() / wall.mean() / math.sqrt(tries)), saving, repeated, down)


def _try(interval: float, save: Save, failures: Failures, between: float, random: np.random.Generator) -> tuple[float, ...]:
    """From one failure to the next: seconds that are kept, of saving, repeated later, and down."""
    down = failures.notice
    while (strikes := random.exponential(between)) < failures.restart:
        down += strikes + failures.notice
    down += failures.restart
    clock = trained = kept = saving = 0.0
    life = random.exponential(between)
    written: list[tuple[float, float]] = []
    while clock < life:
        trained += min(interval, life - clock)
        clock += interval
        if clock < life:
            written.append((clock + save.write, trained))
            saving += min(save.stall, life - clock)
            clock += save.stall
    kept = max((progress for whole, progress in written if whole <= life), default=0.0)
    return kept, saving, trained - kept, down
