"""Peak memory and idle waits of a benchmark, on CPU and GPU alike."""

from __future__ import annotations

from pathlib import Path

import torch


def wait(device: str) -> None:
    """Until the GPU has done all that it was asked for; nothing on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: str) -> int:
    """Forget the peak so far; bytes in use now: allocated on the GPU, or this process's resident set."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def peak(device: str) -> int:
    """The most bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")


def _resident(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024
