"""One process of tests/parallel/test_steps_layouts.py: `main(cases.json, folder)`. What a step means must not depend on the ranks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from groups import grouped

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from training_tools import flow_task, latent_set, preference_task, pretrain_stage

from mugv.errors import UserError
from mugv.recipe.models import DiTModel
from mugv.recipe.optimizer import Guard, Optimizer
from mugv.recipe.schema import Parallel
from mugv.training.loop import fit
from mugv.training.preferences import PreferenceData

MODEL = DiTModel(layers=2, hidden=24, heads=2, latent_channels=4)


def run(case: dict, folder: Path) -> None:
    layout = Parallel(world=int(os.environ["WORLD_SIZE"]), **case["layout"])
    work = folder / case["name"]
    report = preference(layout, folder, case) if case["kind"] == "kto" else refused(layout, folder, work, case)
    (folder / f"{case['name']}-{dist.get_rank()}.json").write_text(json.dumps(report))
    dist.barrier()


def preference(layout: Parallel, folder: Path, case: dict) -> dict:
    """KTO whose clips of a step are the same however many ranks share them; the loss of each step."""
    latents = latent_set(folder / f"latents-{case['name']}-{os.environ['RANK']}")
    task = preference_task(latents, folder, layout, MODEL, optimizer=Optimizer(learning_rate=1e-3, epsilon=1e-4))
    rank, world, draw = task.rank, task.world, PreferenceData.batch

    def share(self, method, step, batch, seed, _rank, _world):
        clips, passed = draw(self, method, step, batch, seed, 0, 1)
        half = len(clips) // 2
        mine = torch.cat([torch.arange(half)[rank::world], half + torch.arange(half)[rank::world]])
        return clips.select(mine), passed[mine]

    task.preferences.batch = share.__get__(task.preferences)
    return {"kto_loss": [task.train_step(step)["kto_loss"] for step in range(6)]}


def refused(layout: Parallel, folder: Path, work: Path, case: dict) -> dict:
    """A clip that is not finite lies on one rank alone: all ranks must stop, or skip, alike."""
    settings = Optimizer(learning_rate=1e-3, guard=Guard(skips=case["skips"]))
    latents = latent_set(folder / f"latents-{case['name']}-{os.environ['RANK']}", float("nan"))
    task = flow_task(latents, pretrain_stage(optimizer=settings, average_decay=0.9), layout, MODEL)
    message = ""
    try:
        fit(task, work, 6, 2)
    except UserError as error:
        message = str(error)
    finite = all(bool(p.isfinite().all()) for chunk in task.result for p in chunk.parameters())
    return {"message": message, "skipped": task.engine.guard.skipped, "finite": finite}


def main(job: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    for case in grouped(json.loads(job.read_text())):
        run(case, folder)
