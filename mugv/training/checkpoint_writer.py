"""Checkpoints of a training, written while it waits or while it goes on, and what is kept of them.

    writing-00000100   a checkpoint in the making
    step-00000100      whole: synced, with the digests of its files
    removing-...       one that is no longer kept

Asynchronously the loop stands still while the state is planned and handed to forked processes, which see the memory as it was then. They
write, a thread syncs and takes the digests, and `poll`, which the loop calls after each step, gives the checkpoint its name.
"""

from __future__ import annotations

import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mugv.durable import sync
from mugv.training.checkpoint_files import Sealing, barrier, rank, seal

if TYPE_CHECKING:
    from mugv.training.loop import Task


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every whole checkpoint, oldest first."""
    return sorted((int(p.name.removeprefix("step-")), p) for p in folder.glob("step-*") if p.name[5:].isdigit())


class CheckpointWriter:
    """Two phases: all ranks write under a temporary name, then rank 0 renames; older checkpoints go only after that."""

    def __init__(self, task: Task, folder: Path, milestones: frozenset[int] = frozenset(), asynchronous: bool = False) -> None:
        self.task, self.folder, self.milestones = task, folder, milestones
        self.queue: Any = None
        self._sealing: tuple[int, Sealing] | None = None
        self._remover = ThreadPoolExecutor(1, "remove")
        if asynchronous:
            from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue

            self.queue = AsyncCallsQueue()

    def save(self, step: int) -> None:
        """Write the state after `step` steps. One asynchronous write at a time: a second waits for the first."""
        self.poll(wait=True)
        temporary = self._temporary(step)
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        barrier()
        if self.queue is None:
            self.task.save(temporary)
            seal(temporary)
            return self._publish(step)
        requests = self.task.save(temporary, asynchronous=True)  # type: ignore[call-arg]
        requests[-1].add_finalize_fn(lambda: self._seal(step))
        for request in requests:
            self.queue.schedule_async_request(request)

    def poll(self, wait: bool = False) -> None:
        """Publish what has been written meanwhile; every rank calls it."""
        if self.queue is None:
            return
        self.queue.maybe_finalize_async_calls(blocking=wait)
        if self._sealing is not None:
            step, sealing = self._sealing
            if wait or sealing.done():
                self._sealing = None
                sealing.finish()
                self._publish(step)

    def close(self) -> None:
        """Wait for what is being written and removed."""
        self.poll(wait=True)
        self._remover.shutdown()

    def _temporary(self, step: int) -> Path:
        return self.folder / f"writing-{step:08d}"

    def _seal(self, step: int) -> None:
        self._sealing = step, Sealing(self._temporary(step))

    def _publish(self, step: int) -> None:
        final = self.folder / f"step-{step:08d}"
        if rank() == 0:
            self._remove(final)
            self._temporary(step).rename(final)
            sync(self.folder)
            self._prune(step)
        barrier()

    def _prune(self, newest: int) -> None:
        """Keep the milestones, the newest and the one before it; what a damaged later one left goes as well."""
        earlier = [step for step, _ in checkpoints(self.folder) if step < newest]
        kept = {newest, *earlier[-1:], *(step for step in self.milestones if step < newest)}
        for step, path in checkpoints(self.folder):
            if step not in kept:
                self._remove(path)
        for left in (*self.folder.glob("writing-*"), *self.folder.glob("removing-*")):
            self._remover.submit(shutil.rmtree, left, True)

    def _remove(self, path: Path) -> None:
        """The name goes at once, so that no half of a checkpoint has it, and the files beside training."""
        if path.exists():
            doomed = path.with_name(f"{path.name.replace('step', 'removing')}-{secrets.token_hex(4)}")
            path.rename(doomed)
            self._remover.submit(shutil.rmtree, doomed, True)
