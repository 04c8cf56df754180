"""One process of tests/parallel/test_data_parallel.py: three SGD-like steps of a tiny DiT on fixed clips, reported as JSON.

The clips of a step are the same set whatever the number of ranks: rank r takes its share of a batch drawn from the step alone.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from mugv.flow.path import sample_timesteps
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Optimizer, Parallel
from mugv.training import process_groups
from mugv.training.engine import Engine, build_model
from mugv.training.flow_data import generator_for
from mugv.training.objectives import FlowBatch, clip_losses

CLIPS = 4


def share(step: int, rank: int, world: int) -> FlowBatch:
    g = generator_for(0, step, 0)
    latent, noise = (torch.randn(CLIPS, 4, 2, 4, 4, generator=g) for _ in range(2))
    t, text = sample_timesteps(CLIPS, 1.0, g), torch.randn(CLIPS, 3, 8, generator=g)
    part = slice(rank * CLIPS // world, (rank + 1) * CLIPS // world)
    mask, ones, fps = torch.ones(CLIPS, 3, dtype=torch.bool), torch.ones(CLIPS, 2, dtype=torch.bool), torch.full((CLIPS,), 12.0)
    return FlowBatch(*(x[part] for x in (latent, noise, t, ones, text, mask, fps)))


def loss(model, batch):
    value = clip_losses(model, batch).mean()
    return value, {}


def fingerprint(model) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def main(folder: Path, zero: bool) -> None:
    world = int(os.environ["WORLD_SIZE"])
    layout = Parallel(world=world, distributed_optimizer=zero)
    model = build_model(DiTModel(layers=2, hidden=24, heads=2, latent_channels=4), 8, 1, layout, 0)
    rank, _ = process_groups.data_rank()
    settings = Optimizer(learning_rate=1e-2, epsilon=1.0)
    engine = Engine(model, settings, layout)
    losses = [engine.step([share(step, rank, world)], loss, 1e-2)["loss"] for step in range(3)]
    checkpoint = folder / "checkpoint"
    engine.save(checkpoint)
    parameters = fingerprint(model)
    continued = engine.step([share(3, rank, world)], loss, 1e-2)["loss"]
    engine.load(checkpoint)
    resumed = engine.step([share(3, rank, world)], loss, 1e-2)["loss"]
    noise = float(torch.rand(1, generator=generator_for(0, 0, rank)))
    report = {"losses": losses, "parameters": parameters, "continued": continued, "resumed": resumed, "noise": noise}
    (folder / f"rank-{rank}.json").write_text(json.dumps(report))
    torch.distributed.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--distributed-optimizer" in sys.argv)
