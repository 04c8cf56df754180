"""The one training loop: steps, checkpoints in two phases, resume, progress. VAE, flow matching, DPO and KTO all use it.

    task.train_step(step) -> metrics        one optimizer step; randomness comes from (seed, step, rank) only
    task.save(folder) / task.load(folder)   everything that the next step depends on

A checkpoint `step-00000100` holds the state after 100 steps. It is written under a temporary name, synced, given the digests of its
files and renamed, so a folder with that name is always whole; a killed run goes on from the newest one with the same losses, bit for
bit. The one before is kept as well: should the newest be damaged, the run goes on from there and says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from mugv import stopping
from mugv.errors import StoppedError, UserError
from mugv.guard import RefusedStepError
from mugv.ledger import Ledger
from mugv.precision import here
from mugv.training.checkpoint_files import damage, rank, world
from mugv.training.checkpoint_writer import CheckpointWriter, checkpoints
from mugv.training.metrics_log import MetricsLog

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with (steps done, steps in all, metrics)."""


class Task(Protocol):
    """What the loop trains."""

    def train_step(self, step: int) -> dict[str, float]: ...

    def save(self, folder: Path) -> Any: ...

    def load(self, folder: Path) -> None: ...


def fit(
    task: Task,
    folder: Path,
    steps: int,
    save_every: int,
    progress: Progress | None = None,
    milestones: frozenset[int] = frozenset(),
    asynchronous: bool = False,
) -> None:
    """Train to `steps`, saving every `save_every` steps, at `milestones` and at the end; resumes what it finds.

    Kept are the newest checkpoint, the one before and the milestones. UserError when a whole checkpoint is of another
    network, or beyond `steps`. StoppedError after the step in which SIGTERM or SIGINT came, and its checkpoint. Metrics go to
    `folder/metrics.jsonl`. `asynchronous`: checkpoints are
    written by forked processes while training goes on, and get their name once they are whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = CheckpointWriter(task, folder, milestones, asynchronous)
    with stopping.deferred():
        done = saved = _resume(task, folder, steps)
        log, standing = MetricsLog(folder / "metrics.jsonl"), Standing(folder)
        if rank() == 0:
            standing.ledger.write("begin", step=done, **log.rewind(done))
        while not (stop := _agreed_stop()) and done < steps:
            began = time.perf_counter()
            metrics = _train_step(task, done)
            if rank() == 0:
                log.write(done, **metrics, seconds=round(time.perf_counter() - began, 5))
                if progress:
                    progress(done + 1, steps, metrics)
            done += 1
            with standing:
                if done % save_every == 0 or done == steps or done in milestones:
                    writer.save(saved := done)
                writer.poll()
            standing.tell(saved)
        with standing:
            if saved != done:
                writer.save(saved := done)
            writer.close()
        standing.tell(saved, last=True)
        if stop:
            stopped = StoppedError(stop, f"after step {done} of {steps}; its checkpoint is kept")
            if rank() == 0:
                logger.warning("%s", stopped)
            raise stopped


class Standing:
    """Seconds that the loop stands still for its checkpoints, told to the ledger with each. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self._seconds = self._began = 0.0
        self._told = 0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._seconds += time.perf_counter() - self._began

    def tell(self, saved: int, last: bool = False) -> None:
        """`saved`: step of the newest checkpoint."""
        if rank() or (saved == self._told and not last):
            return
        self.ledger.write("save", step=saved, saves=int(saved != self._told), seconds=round(self._seconds, 4))
        self._seconds, self._told = 0.0, saved


def _agreed_stop() -> int:
    """The signal that asked any rank to stop, the same on every rank; 0: none did. A stop after another step each would never end."""
    number = stopping.requested()
    if world() == 1:
        return number
    asked = torch.tensor(number, device=here())
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return int(asked)


def _train_step(task: Task, step: int) -> dict[str, float]:
    """The step's metrics. A refused step is left out while the stage may, which is `skipped` in the metrics; else it ends the stage."""
    try:
        return task.train_step(step)
    except RefusedStepError as refused:
        if not refused.may_skip:
            raise UserError(
                f"step {step + 1} would destroy the weights: {refused}; the checkpoint before it is kept. "
                "Lower the learning rate or look at these clips; guard.skips lets a stage leave out a few steps"
            ) from None
        logger.warning("step %d skipped: %s", step + 1, refused)
        return {"skipped": 1.0}


def _resume(task: Task, folder: Path, steps: int) -> int:
    """Load the newest whole checkpoint; its step, or 0 where there is none. Every rank calls it."""
    for step, path in reversed(checkpoints(folder)):
        if step > steps:
            raise UserError(f"checkpoint {path}: of a training that was longer than {steps} steps; remove {folder} to begin anew")
        if wrong := damage(path):
            logger.warning("checkpoint %s is damaged (%s): going on from the one before, or from the start", path, wrong)
            continue
        task.load(path)
        return step
    return 0
