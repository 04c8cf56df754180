"""One part of run.sh: measures and appends each figure to a file of JSON lines as soon as it is known, so that a cut loses nothing.

    python -m benchmarks.gpu.parts PART RESULTS [--rehearse]

A line is {"part", "case", "values"}; a value that is not finite ends the part. `--rehearse` shrinks the sizes and takes the CPU;
nothing else differs. Heavy imports happen inside the parts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore", module="megatron")

PACKAGES = {"flash": "flash_attn", "te": "transformer_engine"}
"""Of the attention back ends that torch does not bring."""
OLDEST_TORCH = (2, 11)


class Sizes(NamedTuple):
    """What is measured."""

    device: str
    hidden: int
    heads: int
    latent: tuple[int, int, int]
    blocks: int
    memory_blocks: int
    sampler_blocks: int
    repeats: int
    steps: int
    pixels: tuple[int, int]
    frames: int

    @staticmethod
    def real() -> Sizes:
        """720p, 105 frames: 50,402 tokens at the published width."""
        return Sizes("cuda", 3456, 48, (14, 90, 160), 6, 4, 2, 3, 25, (720, 1280), 105)

    @staticmethod
    def rehearsal() -> Sizes:
        return Sizes("cpu", 144, 2, (3, 8, 8), 2, 2, 2, 1, 3, (64, 64), 17)


class Results:
    """Appends lines of one part; each is written whole and at once."""

    def __init__(self, path: Path, part: str) -> None:
        self.path, self.part = path, part

    def add(self, case: str, **values: float | str) -> None:
        """Raises ValueError for a number that is not finite."""
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{self.part} {case}: {name} is {value}")
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps({"part": self.part, "case": case, "values": values}).encode() + b"\n")
            os.fsync(file.fileno())


def machine(results: Results, sizes: Sizes, command: str) -> None:
    """What the figures were measured on. SystemExit 2 after one line where they cannot be."""
    import torch

    version = tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        refuse(f"torch {torch.__version__} is installed; {'.'.join(map(str, OLDEST_TORCH))} or newer is needed")
    cuda = sizes.device == "cuda"
    if cuda and not torch.cuda.is_available():
        refuse("torch sees no CUDA device; --rehearse runs the same at tiny sizes on a CPU")
    results.add(
        "machine",
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        card=torch.cuda.get_device_name() if cuda else "none: REHEARSAL on a CPU, whose figures mean nothing",
        memory=f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.1f} GiB" if cuda else "-",
        driver=first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else "-",
        torch=f"{torch.__version__}, CUDA {torch.version.cuda}",
        python=platform.python_version(),
        commit=first_line("git", "describe", "--always", "--dirty"),
        command=command,
    )


def refuse(reason: str) -> None:
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2)


def first_line(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


class Outcomes:
    """A pytest plugin: each test's outcome is a line as soon as the test has ended."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._add(report.nodeid, report)

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self._add(report.nodeid, report)

    def _add(self, name: str, report: Any) -> None:
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr).strip()
        reason = "" if report.outcome == "passed" else said.splitlines()[-1][-200:]
        self.results.add(name, outcome=report.outcome, seconds=float(getattr(report, "duration", 0.0)), reason=reason)


def tests(results: Results, sizes: Sizes) -> None:
    """tests/gpu. SystemExit 1 unless all passed or were skipped; without a GPU all are skipped."""
    import pytest

    code = pytest.main(["tests/gpu", "-p", "no:cacheprovider", "-W", "ignore"], plugins=[Outcomes(results)])
    allowed = {pytest.ExitCode.OK} | ({pytest.ExitCode.NO_TESTS_COLLECTED} if sizes.device == "cpu" else set())
    if code not in allowed:
        raise SystemExit(1)


def dit(results: Results, sizes: Sizes, back_end: str) -> None:
    """Step of blocks alone with one attention back end."""
    package = PACKAGES.get(back_end)
    if package and not importlib.util.find_spec(package):
        results.add(back_end, note=f"{package} is not installed")
        return
    if sizes.device == "cpu" and back_end != "sdpa":
        results.add(back_end, note="needs a CUDA device")
        return
    from benchmarks.gpu import dit as benchmark

    setting = _setting(sizes, attention=back_end)
    whose, flops = benchmark.card_peak(sizes.device)
    found = benchmark.measure(setting, sizes.blocks)
    results.add(back_end, **found, note=f"MFU of {flops / 1e12:g} TFLOP/s dense bf16 ({whose})")


def _setting(sizes: Sizes, **layout: str) -> Any:
    from benchmarks.gpu.dit import Setting
    from mugv.recipe.models import DiTModel
    from mugv.recipe.schema import Parallel

    model = DiTModel(hidden=sizes.hidden, heads=sizes.heads)
    return Setting(sizes.device, model, sizes.latent, 300, Parallel(precision="bf16", **layout), sizes.repeats)


def memory(results: Results, sizes: Sizes) -> None:
    """Peak of a step of blocks under each recompute mode, predicted and measured."""
    from benchmarks.gpu.dit import make_ready, measure_memory

    for mode in ("none", "selective", "full"):
        setting = _setting(sizes, recompute=mode)
        found = measure_memory(setting, sizes.memory_blocks, *make_ready(setting, sizes.memory_blocks))
        results.add(f"recompute {mode}", blocks=sizes.memory_blocks, tokens=setting.clip.tokens, **found)


def vae(results: Results, sizes: Sizes) -> None:
    """Encoding and decoding a clip; a short one of the same size warms up."""
    import torch

    from benchmarks.vae import make_vae, measure
    from mugv.recipe.models import VAEModel

    small = VAEModel(base_channels=8, channel_multipliers=(1, 1, 1, 1), blocks_per_level=1, temporal_channels=(8, 8, 8, 8), groups=4)
    net = make_vae(VAEModel() if sizes.device == "cuda" else small, sizes.device)
    for case in ("encode", "decode"):
        with torch.autocast(sizes.device, torch.bfloat16):
            measure(net, case, 17, sizes.pixels)
            found = measure(net, case, sizes.frames, sizes.pixels)
        rate, size = sizes.frames / found["seconds"], f"{sizes.pixels[1]}x{sizes.pixels[0]}"
        values = {"seconds": found["seconds"], "frames/s": rate, "weights MB": found["weights"], "peak MB above weights": found["peak"]}
        results.add(f"{case} {sizes.frames} frames of {size}", **values)


def sampler(results: Results, sizes: Sizes) -> None:
    """Share of sampling's time outside the network. A few blocks stand for the whole, so the share is an upper bound of the whole's."""
    from benchmarks.sampler import make_generator, outside_shares
    from mugv.recipe.models import DiTModel
    from mugv.recipe.schema import Sampler

    model = DiTModel(layers=sizes.sampler_blocks, hidden=sizes.hidden, heads=sizes.heads)
    generator = make_generator(model, sizes.pixels, sizes.frames, "bf16")
    for method in ("euler", "ab2"):
        ((share, seconds),) = outside_shares(generator, Sampler(method=method, steps=sizes.steps), 1, 1)
        shape = {"blocks": sizes.sampler_blocks, "steps": sizes.steps, "frames": sizes.frames}
        results.add(f"{method}, guidance 4", **shape, seconds=seconds, **{"outside the network %": 100 * share})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part")
    parser.add_argument("results", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--command", default="")
    given = parser.parse_args()
    sizes, results = Sizes.rehearsal() if given.rehearse else Sizes.real(), Results(given.results, given.part)
    if given.part == "machine":
        machine(results, sizes, given.command)
    elif given.part.startswith("dit-"):
        dit(results, sizes, given.part.removeprefix("dit-"))
    else:
        {"tests": tests, "memory": memory, "vae": vae, "sampler": sampler}[given.part](results, sizes)


if __name__ == "__main__":
    main()
