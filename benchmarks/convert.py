"""Conversion of a released file in bounded memory: `python -m benchmarks.convert [--hidden 1728] [--suffix .safetensors]`.

Makes a bf16 file with the release's names and random weights (2.7 B parameters unless told otherwise), converts it to a checkpoint
folder and back in processes of their own, compares every tensor's bytes, and prints seconds and peak memory of each conversion.

RSS is the kernel's high-water mark (VmHWM). RssAnon is memory that the process owns, read every 5 ms: files' pages are not in it.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mugv.dit.release import released_shapes
from mugv.recipe.models import DiTModel
from mugv.training.convert.files import open_file, write_file
from mugv.training.convert.state import LazyState, Stored

CONVERT = "import sys; from pathlib import Path; from mugv.training.convert import convert; convert(*map(Path, sys.argv[1:]))"
IMPORT = "import mugv.training.convert"


def random_state(model: DiTModel, text_width: int) -> LazyState:
    """bf16 weights of either sign and a magnitude in [2^-6, 2^-5): random bits under a fixed exponent, which is fast to make."""
    stored = {name: Stored(shape, torch.bfloat16) for name, shape in released_shapes(model, text_width).items()}

    def read(name: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
        words = (math.prod(stored[name].shape) + 3) // 4
        bits = torch.empty(words, dtype=torch.int64).random_(generator=generator).view(torch.int16)
        bits.bitwise_and_(0x007F - 0x8000).bitwise_or_(0x3C80)
        return bits[: math.prod(stored[name].shape)].view(torch.bfloat16).reshape(stored[name].shape).clone()

    return LazyState(stored, read)


def measure(code: str, *arguments: Path) -> tuple[float, int, int]:
    """(seconds, peak RSS, peak RssAnon) of a Python process, in bytes."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])
    peaks = {"VmHWM": 0, "RssAnon": 0}
    while process.poll() is None:
        for line in _status(process.pid):
            field, _, value = line.partition(":")
            if field in peaks:
                peaks[field] = max(peaks[field], int(value.split()[0]) * 1024)
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"the conversion ended with code {process.returncode}")
    return time.perf_counter() - began, peaks["VmHWM"], peaks["RssAnon"]


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []


def equal(first: Path, second: Path) -> bool:
    """Whether two files hold the same tensors, compared one at a time."""
    a, b = open_file(first), open_file(second)
    return a.stored == b.stored and all(torch.equal(a[n].view(torch.int16), b[n].view(torch.int16)) for n in a)


def run(folder: Path, model: DiTModel, text_width: int, suffix: str) -> None:
    state = random_state(model, text_width)
    largest = max(stored.nbytes for stored in state.stored.values())
    need, free = 3 * state.nbytes, shutil.disk_usage(folder).free
    if free < 1.05 * need:
        raise SystemExit(f"needs {need / 1e9:.0f} GB on {folder}, {free / 1e9:.0f} GB are free")
    source, converted, back = folder / f"released{suffix}", folder / "converted", folder / f"back{suffix}"
    write_file(source, state, suffix)
    print(f"{state.nbytes / 2e9:.3f} B parameters, {state.nbytes / 1e9:.2f} GB bf16 ({suffix}), largest tensor {largest / 1e6:.1f} MB")
    jobs = (("imports alone", IMPORT, ()), ("file to folder", CONVERT, (source, converted)), ("folder to file", CONVERT, (converted, back)))
    for label, code, paths in jobs:
        seconds, rss, anon = measure(code, *paths)
        print(f"{label:<18}{seconds:9.1f} s   peak RSS {rss / 1e6:6.0f} MB   peak RssAnon {anon / 1e6:6.0f} MB", flush=True)
    print("every tensor equal to the bit" if equal(source, back) else "TENSORS DIFFER")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1728)
    parser.add_argument("--layers", type=int, default=56)
    parser.add_argument("--text", type=int, default=4096)
    parser.add_argument("--suffix", choices=(".safetensors", ".pt"), default=".safetensors")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go for a while (default: the system's temporary folder)")
    given = parser.parse_args()
    model = DiTModel(layers=given.layers, hidden=given.hidden, heads=given.hidden // 72)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        run(Path(folder), model, given.text, given.suffix)


if __name__ == "__main__":
    main()
