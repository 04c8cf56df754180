"""Lets megatron-core 0.16.1 run on a machine without CUDA. Inert where CUDA exists.

megatron asks torch for `cuda` devices, streams and random states by name. After megatron is imported, the global name `torch`
inside each loaded `megatron.core` module is replaced by a proxy whose `cuda` namespace and tensor factories answer for the CPU.
No file of megatron is changed, and our own code keeps the real torch. `install()` may be called again after late imports.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pickle
import queue
import sys
import tempfile
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

MEGATRON_VERSION = "0.16.1"
_FACTORIES = ("tensor", "zeros", "ones", "empty", "empty_like", "zeros_like", "full", "arange", "rand", "randn")
_CPU = torch.device("cpu")
_NEEDED = (
    "megatron.core.dist_checkpointing.strategies.filesystem_async",
    "megatron.core.dist_checkpointing.strategies.fully_parallel",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
    "megatron.core.dist_checkpointing.strategies.torch",
    "megatron.core.distributed",
    "megatron.core.optimizer.distrib_optimizer",
    "megatron.core.tensor_parallel.random",
)
"""Modules that megatron imports late; they are imported before the rebinding, so that it reaches them."""


class _Proxy(types.ModuleType):
    """A module that answers from `overrides` first and from the real module otherwise."""

    def __init__(self, real: types.ModuleType, overrides: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(overrides, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


class FusedAdam(torch.optim.Optimizer):
    """AdamW with the interface of Transformer Engine's FusedAdam: `step` is kept in the parameter group, so that megatron's
    distributed optimizer can save and load it. Extra keywords are accepted and ignored, as there."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        **_: Any,
    ) -> None:
        self.adam_w_mode = adam_w_mode
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for group in self.param_groups:
            group["step"] = int(group.get("step", 0)) + 1
            active = [p for p in group["params"] if p.grad is not None]
            if active:
                self._update(group, active)
        return loss

    def _update(self, group: dict[str, Any], params: list[torch.Tensor]) -> None:
        beta1, beta2 = group["betas"]
        grads: list[torch.Tensor] = [p.grad for p in params if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        first = [self.state[p]["exp_avg"] for p in params]
        second = [self.state[p]["exp_avg_sq"] for p in params]
        if group["weight_decay"]:
            if self.adam_w_mode:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            else:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        torch._foreach_lerp_(first, grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
        correction1, correction2 = 1 - beta1 ** group["step"], 1 - beta2 ** group["step"]
        denominator = torch._foreach_sqrt(second)
        torch._foreach_div_(denominator, correction2**0.5)
        torch._foreach_add_(denominator, group["eps"])
        torch._foreach_addcdiv_(params, first, denominator, -group["lr"] / correction1)


def install() -> None:
    """Rebind CUDA names in every loaded `megatron.core` module; does nothing where CUDA exists.

    Raises RuntimeError when another megatron-core than the pinned one is installed.
    """
    version = importlib.metadata.version("megatron-core")
    if version != MEGATRON_VERSION:
        raise RuntimeError(f"megatron-core {version} is installed; mugv is written for {MEGATRON_VERSION}")
    if torch.cuda.is_available():
        return
    for name in _NEEDED:
        importlib.import_module(name)
    proxy = _torch_proxy()
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            module.torch = proxy  # type: ignore[attr-defined]
    _use_cpu_random_state()
    _use_fused_adam()
    _save_without_manager()
    _patch_tensor()


def _torch_proxy() -> _Proxy:
    cuda = _Proxy(
        torch.cuda,
        {
            "current_device": lambda: _CPU,
            "synchronize": _nothing,
            "empty_cache": _nothing,
            "set_device": _nothing,
            "manual_seed": torch.manual_seed,
            "get_rng_state": lambda *_: torch.get_rng_state(),
            "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        },
    )
    return _Proxy(torch, {"cuda": cuda, **{name: _on_cpu(getattr(torch, name)) for name in _FACTORIES}})


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    return make


def _use_cpu_random_state() -> None:
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _use_fused_adam() -> None:
    import megatron.core.optimizer as optimizer
    from megatron.core.optimizer import distrib_optimizer

    optimizer.Adam, optimizer.USING_PYTORCH_OPTIMIZER = FusedAdam, False
    distrib_optimizer.Adam = FusedAdam
    distrib_optimizer.HAVE_APEX_OR_TE = distrib_optimizer.USING_TE_OPTIMIZER = True


class _Results:
    """The results of a forked writer, through a file: what megatron asks of a multiprocessing queue with one item."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkstemp(prefix="mugv-save-")[1])

    def put(self, item: Any) -> None:
        self.path.write_bytes(pickle.dumps(item))

    def get_nowait(self) -> Any:
        written = self.path.read_bytes()
        self.path.unlink()
        if not written:
            raise queue.Empty
        return pickle.loads(written)


def _save_without_manager() -> None:
    """megatron starts a server process for its results (measured: 5.4 s for a process's first save, 0.2 s without); one would also
    outlive a trainer that is killed."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async

    filesystem_async._get_write_results_queue = _Results


def _patch_tensor() -> None:
    """megatron compares `tensor.type()` with names of CUDA types and calls `.cuda()`: the only two global patches."""
    if getattr(torch.Tensor.type, "_mugv", False):
        return
    original = torch.Tensor.type

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        name = original(self, *args, **kwargs)
        return name.replace("torch.", "torch.cuda.", 1) if isinstance(name, str) and "cuda" not in name else name

    type_name._mugv = True  # type: ignore[attr-defined]
    torch.Tensor.type = type_name  # type: ignore[assignment, method-assign]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment, method-assign]
