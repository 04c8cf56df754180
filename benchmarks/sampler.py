"""Time of sampling outside the network: `python -m benchmarks.sampler`.

Width 144, 4 layers, 25 steps, guidance, clips of 3 x 8 x 8 latents. Everything but the network's forward counts as outside:
noise, text encoding and projection, the timetable, guidance, the step itself.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

warnings.filterwarnings("ignore", module="megatron")

from benchmarks.meter import wait  # noqa: E402
from mugv.generation import Generator  # noqa: E402
from mugv.recipe.models import DiTModel, TextEncoder, VAEModel  # noqa: E402
from mugv.recipe.schema import Flow, Parallel, Sampler  # noqa: E402
from mugv.training.engine import build_model  # noqa: E402
from mugv.vae import VideoVAE  # noqa: E402

BAR = 0.03
"""Share of the time that sampling may spend outside the network."""
SMALL, SIZE, FRAMES = DiTModel(layers=4, hidden=144, heads=2), (64, 64), 17
PROMPTS = ("a red circle moves left", "a blue square moves up", "a green triangle moves right", "a yellow star moves down")


def make_generator(dit: DiTModel = SMALL, size: tuple[int, int] = SIZE, frames: int = FRAMES, precision: str = "fp32") -> Generator:
    """Untrained networks, on the GPU where there is one: the time does not depend on the weights."""
    text = TextEncoder(width=64, max_tokens=16)
    vae = VAEModel(base_channels=8, channel_multipliers=(1, 1, 1, 1), blocks_per_level=1, temporal_channels=(8, 8, 8, 8), groups=4)
    config = {
        "latent_norm": {"shift": [0.0] * 24, "scale": [1.0] * 24},
        "text": text.model_dump(),
        "flow": Flow().model_dump(),
        "size": size,
        "frames": frames,
        "fps": 12.0,
    }
    return Generator(build_model(dit, text.width, 1, Parallel(precision=precision), 0), config, VideoVAE(vae))


@contextmanager
def timed_forward(generator: Generator) -> Iterator[list[float]]:
    """Seconds of each network call made inside."""
    forward, calls = generator.model.forward, []

    def timed(*given: object, **named: object) -> object:
        wait(generator.device.type)
        began = time.perf_counter()
        out = forward(*given, **named)  # type: ignore[arg-type]
        wait(generator.device.type)
        calls.append(time.perf_counter() - began)
        return out

    generator.model.forward = timed  # type: ignore[method-assign,assignment]
    yield calls
    generator.model.forward = forward  # type: ignore[method-assign]


def outside_shares(generator: Generator, sampler: Sampler, clips: int, runs: int) -> list[tuple[float, float]]:
    """(share of the time outside the network, seconds) of each run of sampling `clips` clips; the first run only warms up."""
    found = []
    for run in range(runs + 1):
        prompts = [f"{PROMPTS[k % len(PROMPTS)]} {run * clips + k}" for k in range(clips)]
        with timed_forward(generator) as calls:
            began = time.perf_counter()
            generator.sample(prompts, [run * clips + k for k in range(clips)], sampler=sampler)
            seconds = time.perf_counter() - began
        assert len(calls) == sampler.steps
        found.append((1 - sum(calls) / seconds, seconds))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    generator, worst = make_generator(), 0.0
    print(f"{torch.get_num_threads()} threads, median of {runs} runs, 25 steps, guidance 4")
    for method in ("euler", "ab2"):
        for clips in (1, 8):
            found = outside_shares(generator, Sampler(method=method), clips, runs)
            share, seconds = (statistics.median(column) for column in zip(*found, strict=True))
            worst = max(worst, share)
            print(f"{method:5} {clips} clips: {1000 * seconds:7.1f} ms, outside the network {100 * share:.2f}%")
    print(f"largest share {100 * worst:.2f}%, bar {100 * BAR:.0f}%: {'met' if worst < BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
