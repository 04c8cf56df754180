"""A checkpoint's files on the disk: every rank brings its share of them to the disk and takes their digests, or checks them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch.distributed as dist

from mugv import digests
from mugv.durable import sync
from mugv.guard import from_all_ranks


def seal(folder: Path) -> None:
    """Sync all files and write `digests.json`; every rank calls it. A power cut then leaves them whole."""
    Sealing(folder).finish()


class Sealing:
    """`seal` beside other work: a thread of each rank brings its share of the files to the disk and takes their digests. Every rank makes
    one, asks `done` as often as the others, and calls `finish`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        barrier()
        self._pool = ThreadPoolExecutor(1, "seal")
        self._digests = self._pool.submit(_sealed, folder, digests.names_in(folder)[rank() :: world()])

    def done(self) -> bool:
        """Whether every rank's share is done, the same on every rank."""
        return all(from_all_ranks(self._digests.done()))

    def finish(self) -> None:
        """Wait for the shares and write `digests.json`. Raises what a share met."""
        self._pool.shutdown()
        parts = from_all_ranks(self._digests.result())
        if rank() == 0:
            digests.write(self.folder, {name: digest for part in parts for name, digest in part.items()})
            for path in [self.folder, *(p for p in self.folder.rglob("*") if p.is_dir())]:
                sync(path)
        barrier()


def _sealed(folder: Path, names: list[str]) -> dict[str, str]:
    for name in names:
        sync(folder / name)
    return digests.compute(folder, names)


def damage(folder: Path) -> str:
    """What is wrong with a sealed folder, as half a sentence, the same on every rank; empty when nothing is."""
    known = digests.read(folder)
    if known is None:
        found = f"{digests.NAME} is missing or damaged"
    else:
        found = digests.damage(folder, {name: known[name] for name in sorted(known)[rank() :: world()]})
    return next((part for part in from_all_ranks(found) if part), "")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if world() > 1:
        dist.barrier()
