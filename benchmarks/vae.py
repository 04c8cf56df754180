"""Time and memory of the VideoVAE on long videos, and how far tiles change its numbers.

    python -m benchmarks.vae                                  105 and 417 frames of 640x352, bf16
    python -m benchmarks.vae --precision fp32 --frames 105    the largest memory; twice the time on a CPU

On a CPU the net has a quarter of the released width, on a GPU all of it. Each case runs in its own process; frames are made and
consumed block by block. The peak is the largest resident set (GPU: allocated memory) less the one after loading the weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.meter import peak, reset_peak, wait
from mugv.recipe.models import VAEModel
from mugv.vae import Tiling, VideoVAE, model

HEIGHT, WIDTH = 352, 640
BLOCK = 8
QUARTER = VAEModel(base_channels=32, temporal_channels=(32, 64, 64, 128), groups=8)


def main() -> None:
    """Print the table; a case is a process of this file with --case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vae", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[105, 417])
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--case", choices=("encode", "decode", "tiles"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(_case(given.case, given.frames[0], given.precision)))
        return
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}; {WIDTH}x{HEIGHT}, {given.precision}")
    print(f"{'':8}{'frames':>8}{'seconds':>10}{'frames/s':>10}{'weights MB':>12}{'peak MB above':>15}")
    for frames in given.frames:
        for case in ("encode", "decode"):
            f = _run(case, frames, given.precision)
            print(f"{case:8}{frames:8}{f['seconds']:10.1f}{frames / f['seconds']:10.2f}{f['weights']:12.0f}{f['peak']:15.0f}", flush=True)
    print("difference from the whole clip at once, fp32, random weights (tiles of a frame are not exact by design):")
    print("largest over the largest value, root mean square over the spread of the values")
    for name, (largest, typical) in _run("tiles", 33, "fp32").items():
        print(f"  {name:40} largest {largest:8.1e}  rms {typical:8.1e}")


def _run(case: str, frames: int, precision: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.vae", "--case", case, "--frames", str(frames), "--precision", precision]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def _case(case: str, frames: int, precision: str) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = make_vae(VAEModel() if device == "cuda" else QUARTER, device)
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        return _tile_differences(vae) if case == "tiles" else measure(vae, case, frames, (HEIGHT, WIDTH))


def make_vae(config: VAEModel, device: str) -> VideoVAE:
    """Random weights, the same every time and on every device."""
    torch.manual_seed(0)
    return VideoVAE(config).eval().to(device)


def measure(vae: VideoVAE, case: str, frames: int, size: tuple[int, int]) -> dict[str, float]:
    """Seconds, MB of weights and peak MB above them of encoding or decoding a clip of 1 + 8k frames of `size` (rows, columns)."""
    device, (height, width) = vae.shift.device.type, size
    z = torch.randn(1, vae.config.latent_channels, frames // 8 + 1, height // 8, width // 8, device=device)
    before = reset_peak(device)
    wait(device)
    start = time.perf_counter()
    if case == "encode":
        seen = sum(p.mean.shape[2] for p in vae.encode_stream(_frames(frames, size, device), frames))
    else:
        seen = sum(block.shape[2] for block in vae.decode_stream(z, clip=True))
    wait(device)
    seconds = time.perf_counter() - start
    assert seen == (frames if case == "decode" else frames // 8 + 1)
    return {"seconds": seconds, "weights": sum(p.numel() * 4 for p in vae.parameters()) / 1e6, "peak": (peak(device) - before) / 1e6}


def _frames(count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
    """Moving waves [1, 3, n, H, W], BLOCK frames at a time."""
    rows, columns = torch.arange(size[0], device=device)[:, None] / 20, torch.arange(size[1], device=device) / 20
    colours = torch.arange(3, device=device)[:, None, None, None]
    for start in range(0, count, BLOCK):
        times = torch.arange(start, min(start + BLOCK, count), device=device)[None, :, None, None] / 4
        yield torch.sin(rows + times + colours)[None] * torch.cos(columns - times)


def _tile_differences(vae: VideoVAE) -> dict[str, tuple[float, float]]:
    """Largest difference over the largest value, and root-mean-square difference over the spread, of 33 frames of 320x176 in pieces
    from all at once."""
    video = torch.cat(list(_frames(33, (176, 320), vae.shift.device.type)), dim=2)
    model.MAP_BYTES = 1 << 40
    with torch.no_grad():
        whole = vae.posterior(_with_still(vae.encode_frames(video))).mean
        windows = torch.cat([vae.decode_window(part) for part in whole.split(2, dim=2)], dim=2)
    model.MAP_BYTES, tiling = 1, Tiling(128, 176, 64)
    pairs = {
        "encode, a frame and a chunk at a time": (vae.encode(video).mean, whole),
        "decode, a frame at a time": (vae.decode(whole, window=2), windows),
        "encode, tiles of 128x176, overlap 64": (vae.encode(video, tiling).mean, whole),
        "decode, tiles of 128x176, overlap 64": (vae.decode(whole, window=2, tiling=tiling), windows),
    }
    return {
        name: (float((a - b).abs().max() / b.abs().max()), float((a - b).square().mean().sqrt() / b.std()))
        for name, (a, b) in pairs.items()
    }


def _with_still(features: Tensor) -> Tensor:
    return torch.cat([features[:, :, :1].expand(-1, -1, 7, -1, -1), features], dim=2)


if __name__ == "__main__":
    main()
