"""How long training stands still for a checkpoint: `python -m benchmarks.async_checkpoint [--hidden 1008 --layers 8]`.

One process trains a DiT of the given size and writes checkpoints as the training loop does, first while it waits, then while it goes on.
Said are, as medians over the checkpoints: seconds of the write (to the moment at which the checkpoint has its name), seconds for which the
loop stood still, and how much slower its steps were while the write went on, which is what the processors and memory are short of.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

HEAD = 72
"""Width of an attention head."""
SHARE = 0.05
"""The loop may stand still for this share of the write's time."""


class Seconds(NamedTuple):
    """Of one checkpoint."""

    write: float
    """From the request to the name."""
    still: float
    """For which the loop did nothing else."""
    step: float
    """Of a step while the write went on; 0 where no step did."""


def one(task: Any, writer: Any, step: int) -> Seconds:
    """Write one checkpoint after `step`, and train until it is there."""
    final, still, steps = writer.folder / f"step-{step:08d}", 0.0, []
    began = now = time.perf_counter()
    writer.save(step)
    still += time.perf_counter() - now
    while not final.exists():
        now = time.perf_counter()
        task.train_step(step + len(steps))
        steps.append(time.perf_counter() - now)
        now = time.perf_counter()
        writer.poll()
        still += time.perf_counter() - now
    return Seconds(time.perf_counter() - began, still, statistics.median(steps) if steps else 0.0)


def flow_task(folder: Path, hidden: int, layers: int) -> Any:
    """Flow matching on a handful of tiny clips: what a checkpoint holds is the network's business."""
    import numpy as np
    import torch

    from mugv.dataset.latentset import LatentNorm, LatentRow, LatentSet, write_latent_set
    from mugv.recipe.models import DiTModel
    from mugv.recipe.schema import Flow, FrameMask, Optimizer, Parallel, PretrainStage
    from mugv.training.engine import build_model
    from mugv.training.flow_data import FlowData
    from mugv.training.tasks import FlowTask

    rows = [LatentRow(f"c{i}", "train", f"caption {i}", 0.1 * i, 12.0, i) for i in range(8)]
    texts = [np.ones((2, 8), np.float32)] * 8
    latents = {(32, 32): torch.randn(8, 4, 3, 4, 4)}
    write_latent_set(folder / "latents", rows, latents, texts, np.zeros((1, 8), np.float32), LatentNorm((0.0,) * 4, (1.0,) * 4), {})
    stage = PretrainStage(name="a", steps=1_000_000, batch=2, size=(32, 32), frames=17, optimizer=Optimizer(learning_rate=1e-4))
    found = LatentSet.open(folder / "latents")
    data = FlowData(found, found.clips("train"), stage.size, stage.frames, Flow(), FrameMask())
    model = DiTModel(layers=layers, hidden=hidden, heads=hidden // HEAD, latent_channels=4)
    return FlowTask(build_model(model, 8, 1, Parallel(), 0), data, stage, Parallel(), seed=1)


def measure(hidden: int, layers: int, count: int, folder: Path) -> dict[str, Any]:
    """The figures; `count` checkpoints of each kind after one that is not counted."""
    task = flow_task(folder, hidden, layers)
    from mugv.training.checkpoint_writer import CheckpointWriter
    from mugv.training.masters import all_parameters

    for step in range(3):
        task.train_step(step)
    steps = []
    for step in range(3, 8):
        began = time.perf_counter()
        task.train_step(step)
        steps.append(time.perf_counter() - began)
    found = {}
    for name, asynchronous in (("waiting", False), ("going on", True)):
        writer = CheckpointWriter(task, folder / name, asynchronous=asynchronous)
        found[name] = [one(task, writer, 100 * (i + 1)) for i in range(count + 1)][1:]
        writer.close()
        size = sum(path.stat().st_size for path in max((folder / name).iterdir()).rglob("*") if path.is_file())
        shutil.rmtree(folder / name)
    middle = {name: Seconds(*(statistics.median(values) for values in zip(*each, strict=True))) for name, each in found.items()}
    return {
        "parameters": sum(p.numel() for p in all_parameters(task.engine.chunks)),
        "gigabytes": size / 1e9,
        "device": str(task.engine.device),
        "step": statistics.median(steps),
        "waiting": middle["waiting"]._asdict(),
        "going_on": middle["going on"]._asdict(),
        "each": {name: [each._asdict() for each in values] for name, values in found.items()},
        "share": middle["going on"].still / middle["going on"].write,
    }


def main() -> int:
    """Exit code 1 where the loop stands still for more than SHARE of the write's time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1008, help="width, a multiple of 72")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--count", type=int, default=3, help="checkpoints of each kind")
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measure(given.hidden, given.layers, given.count, Path(folder))
    print(json.dumps(found, indent=1))
    print(
        f"{found['gigabytes']:.2f} GB: written in {found['waiting']['write']:.2f} s while training waits; in "
        f"{found['going_on']['write']:.2f} s while it goes on, standing still for {found['going_on']['still']:.3f} s: {found['share']:.1%}"
    )
    return int(found["share"] > SHARE)


if __name__ == "__main__":
    sys.exit(main())
