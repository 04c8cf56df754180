"""Weights of a new MUG-DiT, drawn a tensor at a time from (seed, name): the same values whatever the parallel layout.

Linears of the blocks N(0, 0.014 sqrt(3456 / D)) (the release's 0.014 at its width, scaled by 1 / sqrt(width) at others: our choice), their
output projections divided by sqrt(2 layers); embedders PyTorch's default; start and end token N(0, 0.02); tables randn / sqrt(D).
Facts 4.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mugv.dit.model import MugDiT
from mugv.dit.sharding import full_shape, shard
from mugv.draws import generator_named


@torch.no_grad()
def initialise(model: MugDiT, seed: int) -> None:
    """Set every parameter of the model."""
    for name, parameter in model.named_parameters():
        full = _draw(name, full_shape(parameter), model, seed)
        parameter.copy_(shard(full, parameter))
    if model.config.gate_init == "zero":
        _zero_gates(model)


def _draw(name: str, shape: list[int], model: MugDiT, seed: int) -> Tensor:
    generator = generator_named(f"{seed}/{name}")
    width, layers = model.config.hidden_size, model.config.num_layers
    normal = torch.randn(shape, generator=generator)
    if "layernorm" in name:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    if "scale_shift_table" in name:
        return normal / math.sqrt(width)
    if name in ("start_token", "end_token"):
        return normal * 0.02
    if name.startswith("layers."):
        if name.endswith("bias"):
            return torch.zeros(shape)
        out = "linear_proj" in name or "linear_fc2" in name
        return normal * 0.014 * math.sqrt(3456 / width) / (math.sqrt(2 * layers) if out else 1.0)
    fan_in = dict(model.named_parameters())[name.rsplit(".", 1)[0] + ".weight"].shape[1]
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)


def _zero_gates(model: MugDiT) -> None:
    """adaLN-zero: every block starts as the identity, and the velocity starts at zero."""
    for chunk in (2, 5):
        for layer in model.layers.values():
            layer.get_parameter("scale_shift_table")[chunk] = 0
        if model.pre_process:
            model.timestep_block.weight.unflatten(0, (6, -1))[chunk] = 0
            model.timestep_block.bias.unflatten(0, (6, -1))[chunk] = 0
    if model.post_process:
        model.final_layer.linear.weight.zero_()
        model.final_layer.linear.bias.zero_()
