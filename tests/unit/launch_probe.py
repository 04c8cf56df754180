"""A module for the launcher to start: its ranks meet on gloo, rank 0 writes what they saw, then one of several endings."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def meet() -> dict[str, int]:
    """World size and the sum of rank + 1 over all processes."""
    import torch
    import torch.distributed as dist

    if "RANK" not in os.environ:
        return {"world": 1, "sum": 1, "rank": 0}
    dist.init_process_group("gloo")
    value = torch.tensor([dist.get_rank() + 1])
    dist.all_reduce(value)
    seen = {"world": dist.get_world_size(), "sum": int(value), "rank": dist.get_rank()}
    dist.destroy_process_group()
    return seen


def main(ending: str, output: str) -> None:
    if ending == "wait":
        Path(output).write_text("ready")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            Path(output).write_text("interrupted")
            raise SystemExit(130) from None
    if ending == "fail":
        raise SystemExit(3)
    seen = meet()
    if seen["rank"] == 0:
        Path(output).write_text(json.dumps({**seen, "variable": os.environ.get("PROBE", "")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
