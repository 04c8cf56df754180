"""Worker of test_seal.py: two ranks seal a checkpoint together and look for its damage together."""

import json
import os
from pathlib import Path

import torch.distributed as dist

from mugv import digests
from mugv.training.checkpoint_files import damage, seal


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    checkpoint = folder / "state"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / f"rank-{rank}").write_bytes(bytes([rank]) * 1000)
    seal(checkpoint)
    found = {"sealed": digests.read(checkpoint), "whole": damage(checkpoint)}
    dist.barrier()
    if rank == 0:
        (checkpoint / "rank-1").write_bytes(bytes([1]) * 999 + b"\0")
    dist.barrier()
    found["damaged"] = damage(checkpoint)
    (folder / f"found-{os.environ['RANK']}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
