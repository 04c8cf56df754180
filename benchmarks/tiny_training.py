"""What trains the tiny DiT best: variants of its last pretraining stage, from nothing, on the latents of a finished run.

    python -m benchmarks.tiny_training                          adam, muon, muon with matched noise; 600 steps each
    python -m benchmarks.tiny_training --steps 300 adam muon    some of them
    python -m benchmarks.tiny_training --state DIR              the run's state folder (default .mugv)

Steps, seconds a step, training loss, validation flow loss, and the judge's table. It is no part of the recipe: it is how the recipe
was chosen (docs/decisions/tiny.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment

from mugv.dataset.latentset import LatentSet
from mugv.evaluation.columns import generated_columns, real_clips
from mugv.evaluation.scores import ROWS
from mugv.generation import Generator
from mugv.recipe import Recipe, load_recipe
from mugv.recipe.schema import PretrainStage
from mugv.training.engine import build_chunks
from mugv.training.flow_data import FlowData, stage_ratio
from mugv.training.objectives import FlowBatch
from mugv.training.tasks import FlowTask
from mugv.training.validation import validation_losses


class MatchedNoise(FlowData):
    """Each clip gets, of the batch's noises, one near it: the assignment that minimises the sum of distances."""

    def batch(self, *args: Any, **kwargs: Any) -> FlowBatch:
        found = super().batch(*args, **kwargs)
        assert isinstance(found.latent, torch.Tensor)
        assert isinstance(found.noise, torch.Tensor)
        nearness = found.latent.flatten(1) @ found.noise.flatten(1).T
        _, order = linear_sum_assignment(-nearness.numpy())
        return dataclasses.replace(found, noise=found.noise[torch.from_numpy(order)])


def _adam(stage: PretrainStage) -> PretrainStage:
    optimizer = stage.optimizer.model_copy(update={"muon": None, "learning_rate": 2.5e-3})
    return stage.model_copy(update={"optimizer": optimizer})


VARIANTS: dict[str, tuple[Callable[[PretrainStage], PretrainStage], type[FlowData]]] = {
    "adam": (_adam, FlowData),
    "muon": (lambda stage: stage, FlowData),
    "muon-matched": (lambda stage: stage, MatchedNoise),
}


class Workplace:
    """Latents, clips and VAE of the newest finished run of a state folder."""

    def __init__(self, state: Path) -> None:
        from mugv.cli.summary import output
        from mugv.dataset.clipset import ClipSet
        from mugv.platform.records import find_run

        record = find_run(state, "latest")
        folders = {name: output(record, name) for name in ("encode", "curate", "train_vae")}
        assert all(folders.values()), f"{state}: its newest run is not finished"
        self.latents = LatentSet.open(folders["encode"])  # type: ignore[arg-type]
        self.clips = ClipSet.open(folders["curate"])  # type: ignore[arg-type]
        self.vae = folders["train_vae"]


def train(recipe: Recipe, place: Workplace, name: str, steps: int, clips: int) -> None:
    """Train one variant and print what came out."""
    change, data_of = VARIANTS[name]
    stage = change(recipe.pretrain[-1].model_copy(update={"steps": steps, "expand": None}))
    data = data_of(place.latents, place.latents.clips("train"), stage.size, stage.frames, stage.flow, stage.mask)
    chunks = build_chunks(recipe.dit, recipe.text.width, 1, recipe.parallel, recipe.dit_seed)
    task = FlowTask(chunks, data, stage, recipe.parallel, recipe.dit_seed + 3000)
    began = time.perf_counter()
    losses = [task.train_step(step)["flow_loss"] for step in range(steps)]
    each = (time.perf_counter() - began) / steps
    (model,) = task.result
    generator = Generator(model, _config(recipe, place, stage), _vae(place))
    ratio = stage_ratio(stage.flow, stage.size, 1 + stage.frames // 8)
    held_out = fmean(validation_losses(model, place.latents, stage.size, ratio, recipe.evaluate.flow_loss_clips).values())
    tail = losses[-50:]
    print(
        f"{name}: {steps} steps of {each * 1e3:.0f} ms, loss {sum(tail) / len(tail):.3f}, validation flow loss {held_out:.3f}", flush=True
    )
    real = real_clips(place.clips, "validation", clips, stage.size, stage.frames, parsable_only=True)
    columns = generated_columns(
        generator, real, clips, recipe.evaluate.sampler, stage.size, stage.frames, recipe.evaluate.seed, lambda _: None
    )
    for column in columns:
        score = column.score()
        print(f"  {column.title}: " + ", ".join(f"{title} {getattr(score, row).value:.2f}" for row, title in ROWS.items()), flush=True)


def _config(recipe: Recipe, place: Workplace, stage: PretrainStage) -> dict[str, Any]:
    norm = place.latents.norm
    return {
        "latent_norm": {"shift": norm.shift, "scale": norm.scale},
        "text": recipe.text.model_dump(),
        "flow": stage.flow.model_dump(),
        "size": stage.size,
        "frames": stage.frames,
        "fps": recipe.curation.clip.fps,
    }


def _vae(place: Workplace) -> Any:
    from mugv.vae import load_vae

    assert place.vae is not None
    return load_vae(place.vae)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", choices=[[], *VARIANTS], default=[])
    parser.add_argument("--state", type=Path, default=Path(".mugv"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--clips", type=int, default=96, help="clips of a column of the judge's table")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="megatron")
    recipe, place = load_recipe("configs/tiny.yaml"), Workplace(given.state)
    for name in given.variants or list(VARIANTS):
        train(recipe, place, name, given.steps, given.clips)


if __name__ == "__main__":
    main()
