"""Importing megatron without a GPU does not import torch's compiler.

megatron decorates some fifty functions with `torch.compile` at import, which loads torch's whole compiler (measured: 1.6 of the 3.9
seconds that a process takes to start); we call none of them. `mugv.dit` puts this module's stand-in where megatron looks for its own
`megatron.core.jit`. No torch is imported for that: a process that only plans stays quick.
"""

from __future__ import annotations

import sys
import types
from typing import Any

NAME = "megatron.core.jit"


def jit_fuser(function: Any) -> Any:
    """`function`, compiled by torch where CUDA exists, as megatron does everywhere."""
    import torch

    return torch.compile(function) if torch.cuda.is_available() else function


def install() -> None:
    """Must come before the first import of megatron; a megatron that is loaded already stays as it is."""
    if NAME in sys.modules:
        return
    module = types.ModuleType(NAME, __doc__)
    for name in ("enable_jit_fuser", "disable_jit_fuser"):
        setattr(module, name, lambda: None)
    module.jit_fuser = jit_fuser  # type: ignore[attr-defined]
    module.noop_decorator = lambda function: function  # type: ignore[attr-defined]
    sys.modules[NAME] = module
