"""Which floating-point format a network computes in: the one place that resolves a recipe's `precision: auto`.

A GPU computes in bf16. A CPU does so only where it has bf16 units (avx512_bf16, amx_bf16): others emulate them, and are then several
times slower than in fp32. The variables that make oneDNN or ATen imitate an older processor count as that processor.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mugv.recipe import Recipe

Precision = Literal["auto", "fp32", "bf16"]
Resolved = Literal["fp32", "bf16"]

logger = logging.getLogger(__name__)

_ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_ISAS_WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
_ATEN_WITHOUT_BF16 = frozenset({"default", "avx2"})
EMULATED = "6 to 15 times slower than fp32 (python -m benchmarks.precision)"


def resolve(asked: Precision, device: str, autocast: bool = False) -> Resolved:
    """The format for `asked` on a device type ("cpu", "cuda"), logged once.

    `autocast`: the weights stay fp32 and only the arithmetic changes (the VAE). Without it the weights themselves are in that format
    (the DiT), for which `auto` takes bf16 on a GPU alone.
    """
    return _resolve(asked, device, autocast, _imitated())


def here() -> str:
    """The device type that networks run on in this process: the one place that decides it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def visible_gpus() -> int:
    """GPUs that this process may use. Without a driver's device torch, which takes seconds, is not imported for the answer."""
    if sys.platform == "linux" and not any(os.path.exists(f"/dev/{name}") for name in ("nvidiactl", "kfd", "dxg")):
        return 0
    import torch

    return torch.cuda.device_count()


def warning(recipe: Recipe) -> str:
    """A line for who asks for bf16 by name on a processor that only emulates it; "" otherwise."""
    named = {"vae.train.precision": recipe.vae.train.precision, "parallel.precision": recipe.parallel.precision}
    asked = [key for key, value in named.items() if value == "bf16"]
    if not asked or here() != "cpu" or cpu_has_bf16():
        return ""
    return f"{' and '.join(asked)}: bf16 on a processor without bf16 units is {EMULATED}; auto takes fp32 there"


def machine() -> dict[str, str | int | bool]:
    """What a figure was taken on: processor, the instructions that torch uses of it, threads, bf16 units, GPU."""
    import torch

    found: dict[str, str | int | bool] = {
        "processor": str(torch.cpu.get_capabilities().get("cpu_name", "unknown")),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "bf16_units": cpu_has_bf16(),
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def cpu_has_bf16() -> bool:
    """Whether this processor, or the older one that it imitates, has units for bf16."""
    import torch

    isa, aten = _imitated()
    if isa in _ISAS_WITHOUT_BF16 or aten in _ATEN_WITHOUT_BF16:
        return False
    return any(have for name, have in torch.cpu.get_capabilities().items() if name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def _imitated() -> tuple[str, str]:
    isa = next((os.environ[name] for name in _ISA_VARIABLES if os.environ.get(name)), "")
    return isa.upper(), os.environ.get("ATEN_CPU_CAPABILITY", "").lower()


@lru_cache(maxsize=16)
def _resolve(asked: Precision, device: str, autocast: bool, imitated: tuple[str, str]) -> Resolved:
    if device != "cpu":
        return "fp32" if asked == "fp32" else "bf16"
    units = cpu_has_bf16()
    if asked == "bf16" and not units:
        logger.warning("precision bf16 on a processor without bf16 units: %s; use precision: auto or fp32", EMULATED)
    found: Resolved = asked if asked != "auto" else "bf16" if units and autocast else "fp32"
    logger.info("precision: %s on %s (asked for: %s; bf16 units: %s)", found, device, asked, "yes" if units else "no")
    return found
