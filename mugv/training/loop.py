"""The one training loop: steps, checkpoints in two phases, resume, progress. VAE, flow matching, DPO and KTO all use it.

    task.train_step(step) -> metrics        one optimizer step; randomness comes from (seed, step, rank) only
    task.save(folder) / task.load(folder)   everything that the next step depends on

A checkpoint `step-00000100` holds the state after 100 steps. It is written under a temporary name and renamed, so a
folder with that name is always whole; a killed run goes on from the newest one with the same losses, bit for bit.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch.distributed as dist

from mugv.training.metrics_log import MetricsLog

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with (steps done, steps in all, metrics)."""


class Task(Protocol):
    """What the loop trains."""

    def train_step(self, step: int) -> dict[str, float]: ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every whole checkpoint, oldest first."""
    return sorted((int(p.name.removeprefix("step-")), p) for p in folder.glob("step-*") if p.name[5:].isdigit())


def fit(
    task: Task,
    folder: Path,
    steps: int,
    save_every: int,
    progress: Progress | None = None,
    milestones: frozenset[int] = frozenset(),
) -> None:
    """Train to `steps`, saving every `save_every` steps, at `milestones` and at the end; resumes what it finds.

    Only the newest checkpoint and the milestones are kept. Metrics go to `folder/metrics.jsonl`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = MetricsLog(folder / "metrics.jsonl")
    start = _resume(task, folder)
    if _rank() == 0:
        log.rewind(start)
    for step in range(start, steps):
        began = time.perf_counter()
        metrics = task.train_step(step)
        if _rank() == 0:
            log.write(step, **metrics, seconds=round(time.perf_counter() - began, 5))
            if progress:
                progress(step + 1, steps, metrics)
        done = step + 1
        if done % save_every == 0 or done == steps or done in milestones:
            save_checkpoint(task, folder, done)
            _prune(folder, done, milestones)


def save_checkpoint(task: Task, folder: Path, step: int) -> Path:
    """Two phases: write under a temporary name on all ranks, then rename on rank 0."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f"writing-{step:08d}"
    if _rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _barrier()
    task.save(temporary)
    _barrier()
    if _rank() == 0:
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    _barrier()
    return final


def _resume(task: Task, folder: Path) -> int:
    found = checkpoints(folder)
    if not found:
        return 0
    step, path = found[-1]
    task.load(path)
    return step


def _prune(folder: Path, newest: int, milestones: frozenset[int]) -> None:
    if _rank() == 0:
        for step, path in checkpoints(folder):
            if step != newest and step not in milestones:
                shutil.rmtree(path)
        for left in folder.glob("writing-*"):
            shutil.rmtree(left)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
