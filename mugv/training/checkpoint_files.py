"""A checkpoint's files on the disk: every rank brings its share of them to the disk and takes their digests, or checks them."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist

from mugv import digests
from mugv.durable import sync
from mugv.guard import from_all_ranks


def seal(folder: Path) -> None:
    """Sync all files and write `digests.json`; every rank calls it. A power cut then leaves them whole."""
    barrier()
    mine = digests.names_in(folder)[rank() :: world()]
    for name in mine:
        sync(folder / name)
    parts = from_all_ranks(digests.compute(folder, mine))
    if rank() == 0:
        digests.write(folder, {name: digest for part in parts for name, digest in part.items()})
        for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
            sync(path)
    barrier()


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
