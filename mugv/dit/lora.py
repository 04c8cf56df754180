"""Low-rank adapters (LoRA): a frozen linear W x + b becomes W x + b + alpha / rank B A x, under every parallel layout (facts 6.3).

An adapter is a submodule `lora` of the linear it goes with, so the base keeps its parameter names; adapters are called
`layers.3.mlp.linear_fc1.lora.a.weight` and so on. Beside a column-parallel linear, A is replicated and works on this rank's tokens
and B is column-parallel: under sequence parallelism it gathers tokens of width `rank`. Beside a row-parallel one, A is row-parallel
and B replicated. Replicated weights that see a part of the tokens are marked, and megatron sums their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear
from torch import Tensor, nn

from mugv.dit.layers import column_linear, row_linear
from mugv.dit.model import MugDiT
from mugv.dit.sharding import full_shape, shard
from mugv.draws import generator_named
from mugv.recipe.schema import LoRA

_MARK = ".lora."


class Adapter(nn.Module):
    """alpha / rank B A x, added by a forward hook to the output of `base`, one of megatron's parallel linears."""

    def __init__(self, base: Any, settings: LoRA) -> None:
        super().__init__()
        config, rank = base.config, settings.rank
        self.scale = settings.alpha / rank
        if isinstance(base, ColumnParallelLinear):
            replicated = nn.Linear(base.input_size, rank, bias=False)
            self.a, self.b = replicated, column_linear(config, rank, base.output_size)
        else:
            replicated = nn.Linear(rank, base.output_size, bias=False)
            self.a, self.b = row_linear(config, base.input_size, rank), replicated
        for linear in (self.a, self.b):
            linear.register_parameter("bias", None)
        self.to(base.weight.device, base.weight.dtype)
        if base.sequence_parallel:
            replicated.weight.sequence_parallel = True  # type: ignore[attr-defined]
        self.hook = base.register_forward_hook(_add)

    def forward(self, x: Tensor) -> Tensor:
        return _output(self.b(_output(self.a(x)))) * self.scale


def _add(base: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
    return output[0] + base.lora(inputs[0]), output[1]


def _output(result: Tensor | tuple[Tensor, Any]) -> Tensor:
    """megatron's linears return (output, bias)."""
    return result[0] if isinstance(result, tuple) else result


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return _MARK in name


@torch.no_grad()
def attach(model: MugDiT, settings: LoRA, seed: int = 0) -> None:
    """Freeze the network and put adapters beside the target linears of its blocks; what it computes does not change yet.

    A is normal with deviation 1 / rank, drawn from (seed, name) so that every layout has the same; B is zero.
    """
    model.requires_grad_(False)
    add_adapters(model, settings)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            full = _draw(name, full_shape(parameter), settings.rank, seed)
            parameter.copy_(shard(full, parameter))


def add_adapters(model: MugDiT, settings: LoRA) -> None:
    """Put adapters without values beside the target linears."""
    for name, module in list(model.named_modules()):
        if name.startswith("layers.") and name.rsplit(".", 1)[-1] in settings.targets:
            module.lora = Adapter(module, settings)
    model.lora_settings = settings
    if model.pre_process:
        # Recomputed blocks get gradients only when their input asks for one, and everything below it is frozen.
        model.lora_input = model.patch_embedder.register_forward_hook(_ask_for_gradient)


def settings_of(model: MugDiT) -> LoRA | None:
    """Of the adapters that a network has; None where it has none."""
    return getattr(model, "lora_settings", None)


def _draw(name: str, shape: list[int], rank: int, seed: int) -> Tensor:
    if name.endswith(".b.weight"):
        return torch.zeros(shape)
    generator = generator_named(f"lora/{seed}/{name}")
    return torch.randn(shape, generator=generator) / rank


def _ask_for_gradient(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.requires_grad_() if torch.is_grad_enabled() else output


@torch.no_grad()
def merge(model: MugDiT) -> None:
    """Add the adapters to the weights and take them off; the network is trainable as a whole again."""
    for module in _adapted(model):
        a, b = module.lora.a.weight.float(), module.lora.b.weight.float()
        module.weight.copy_(module.weight.float() + b @ a * module.lora.scale)
        module.lora.hook.remove()
        del module.lora
    if model.pre_process:
        model.lora_input.remove()
        del model.lora_input
    model.lora_settings = None
    model.requires_grad_(True)


def _adapted(model: MugDiT) -> Iterator[Any]:
    return (module for module in list(model.modules()) if isinstance(getattr(module, "lora", None), Adapter))
