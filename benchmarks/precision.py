"""bf16 against fp32 on this processor: a training step of the tiny VAE's trunk, of its joint phase, and of the tiny DiT.

    python -m benchmarks.precision
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m benchmarks.precision      as on a processor without bf16 units

`precision: auto` rests on these ratios: where bf16 is emulated it is several times slower.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from mugv.precision import cpu_has_bf16
from mugv.recipe import Recipe, load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each kind")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="megatron")
    torch.set_num_threads(given.threads)
    recipe = load_recipe("configs/tiny.yaml")
    units = "with" if cpu_has_bf16() else "without"
    print(f"{torch.cpu.get_capabilities().get('cpu_name', 'CPU')}, {given.threads} threads, {units} bf16 units")
    kinds = {"VAE trunk": _vae("spatial"), "VAE joint": _vae("joint"), "DiT 48x48": _dit}
    for name, make in kinds.items():
        seconds = {precision: _time(make(recipe, precision), given.steps) for precision in ("fp32", "bf16")}
        ratio = seconds["bf16"] / seconds["fp32"]
        print(f"{name}: fp32 {seconds['fp32'] * 1e3:.0f} ms, bf16 {seconds['bf16'] * 1e3:.0f} ms, bf16 over fp32 {ratio:.2f}", flush=True)


def _time(step: Callable[[int], Any], steps: int) -> float:
    """Median seconds of a step, after one to warm up."""
    step(0)
    found = []
    for k in range(1, steps + 1):
        began = time.perf_counter()
        step(k)
        found.append(time.perf_counter() - began)
    return median(found)


def _vae(parts: str) -> Callable[[Recipe, str], Callable[[int], Any]]:
    def make(recipe: Recipe, precision: str) -> Callable[[int], Any]:
        from mugv.vae import VideoVAE
        from mugv.vae.training import VAETask

        phase = next(p for p in recipe.vae.train.phases if p.parts == parts)
        settings = recipe.vae.train.model_copy(update={"precision": precision, "linear_start": False, "phases": (phase,)})
        clips = torch.randint(0, 255, (24, recipe.curation.clip.frames, phase.size, phase.size, 3), dtype=torch.uint8)
        return VAETask(VideoVAE(recipe.vae.model), settings, lambda _: clips, 0).train_step

    return make


def _dit(recipe: Recipe, precision: str) -> Callable[[int], Any]:
    from mugv.recipe.schema import Parallel
    from mugv.training.engine import Engine, build_model
    from mugv.training.objectives import FlowBatch, losses, predict

    stage, layout = recipe.pretrain[-1], Parallel(precision=precision)  # type: ignore[arg-type]
    engine = Engine(build_model(recipe.dit, recipe.text.width, 1, layout, 0), stage.optimizer, layout)
    frames = 1 + stage.frames // 8
    latent = torch.randn(stage.batch, recipe.dit.latent_channels, frames, stage.size[0] // 8, stage.size[1] // 8)
    batch = FlowBatch(
        latent=latent,
        noise=torch.randn_like(latent),
        timestep=torch.rand(stage.batch) * 1000,
        noised=torch.ones(stage.batch, frames, dtype=torch.bool),
        text=torch.randn(stage.batch, 6, recipe.text.width),
        text_mask=torch.ones(stage.batch, 6, dtype=torch.bool),
        fps=torch.full((stage.batch,), 12.0),
    )

    class Loss:
        def forward(self, model: Any, micro_batch: FlowBatch) -> Any:
            return predict(model, micro_batch)

        def loss(self, velocity: Any, micro_batch: FlowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return losses(velocity, micro_batch).mean(), {}

    return lambda _: engine.step([batch], Loss(), 1e-4)


if __name__ == "__main__":
    main()
