"""Muon: momentum whose matrices are orthogonalised before they are applied, for the linears of the blocks; Adam does the rest.

On the tiny DiT it reaches Adam's loss in fewer steps (docs/decisions/tiny.md). Formulas: K. Jordan et al., "Muon: An
optimizer for hidden layers" (2024); the factor 0.2 sqrt(larger side), which gives a matrix the update size that Adam would,
from J. Liu et al., arXiv 2502.16982.
Legend: P matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.optimizer import OptimizerConfig, _get_param_groups, get_megatron_optimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer, Float16OptimizerWithFloat16Params, FP32Optimizer, MegatronOptimizer
from torch import Tensor, nn

from mugv.recipe.schema import MuonSettings

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration: singular values go to between 0.7 and 1.2."""


def orthogonalise(matrices_PRC: Tensor, iterations: int) -> Tensor:
    """U V^T of each matrix U S V^T, about, in the precision of the input."""
    a, b, c = COEFFICIENTS
    x = matrices_PRC.mT if matrices_PRC.shape[-2] > matrices_PRC.shape[-1] else matrices_PRC
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if matrices_PRC.shape[-2] > matrices_PRC.shape[-1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. Every parameter is a matrix [R, C]; those of one shape are computed together."""

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, iterations: int, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure else None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for parameters in shapes.values():
                self._update(group, parameters)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        momentum, gradients = group["momentum"], [p.grad.float() for p in parameters if p.grad is not None]
        buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch.stack(torch._foreach_lerp(gradients, buffers, momentum))
        updates = orthogonalise(ahead, group["iterations"]).unbind()
        size = 0.2 * math.sqrt(max(parameters[0].shape))
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"] * size)


def muon_optimizer(config: OptimizerConfig, models: Sequence[nn.Module], settings: MuonSettings) -> MegatronOptimizer:
    """megatron's optimizer over `models` (data-parallel wrappers): Muon on the blocks' linears, Adam on all else.

    For layouts that keep whole matrices: without tensor parallelism and without the distributed optimizer.
    """
    matrices = [p for model in models for name, p in model.named_parameters() if _is_block_linear(name, p)]
    chosen = {id(p) for p in matrices}
    others = [p for model in models for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    with _frozen(others):
        groups = _get_param_groups(list(models), config, None)
    inner = Muon(groups, settings.learning_rate, settings.momentum, settings.iterations, config.weight_decay)
    muon: MegatronOptimizer = (
        Float16OptimizerWithFloat16Params(inner, config, None, _start_state) if config.bf16 else FP32Optimizer(inner, config, _start_state)
    )
    muon.grad_stats_parallel_group = parallel_state.get_model_parallel_group()
    muon.tp_group = parallel_state.get_tensor_model_parallel_group()
    with _frozen(matrices):
        adam = get_megatron_optimizer(config, list(models))
    rest = adam.chained_optimizers if isinstance(adam, ChainedOptimizer) else [adam]
    return ChainedOptimizer([muon, *rest])


def _is_block_linear(name: str, parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.ndim == 2 and "layers." in name and name.endswith(".weight")


def _start_state(optimizer: torch.optim.Optimizer, config: OptimizerConfig | None = None) -> None:
    """Zero buffers, so that a checkpoint can be loaded before the first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """megatron collects what requires a gradient."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
