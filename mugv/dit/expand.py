"""Width expansion of a trained DiT (paper 4.2.1, facts 6.2): every width grows by e, the function stays the same.

Inputs of a wide layer are e copies of the narrow ones, so weights are tiled e x e and divided by e; heads are copied, their
width stays. Optional noise has opposite signs in the two halves of the columns and cancels on replicated inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from mugv.dit.model import MugDiT

_INPUT_NOT_REPLICATED = ("patch_embedder", "timestep_embedder.linear_1", "fps_embedder.linear_1", "context_embedder.linear_1")


@torch.no_grad()
def expand(narrow: Mapping[str, Tensor], wide: MugDiT, factor: int, noise_db: float | None = None, seed: int = 0) -> None:
    """Set the weights of `wide` (width e * D, e * N heads) from the state of a narrow model.

    Raises ValueError naming the first tensor whose expanded shape is not that of `wide`.
    """
    for name, parameter in wide.named_parameters():
        value = expand_tensor(name, narrow[name], factor)
        if value.shape != parameter.shape:
            raise ValueError(f"expansion by {factor}: {name} becomes {list(value.shape)}, the wide model has {list(parameter.shape)}")
        if noise_db is not None and _tiled_both_ways(name, value) and factor == 2:
            value = value + _symmetric_noise(name, value, noise_db, seed)
        parameter.copy_(value)


def expand_tensor(name: str, value: Tensor, e: int) -> Tensor:
    """One tensor of the wide model (facts 6.2, table)."""
    if "q_layernorm" in name or "k_layernorm" in name:
        return value
    if name == "final_layer.linear.weight":
        return value.repeat(1, e) / e
    if name == "final_layer.linear.bias":
        return value
    if "scale_shift_table" in name:
        return value.repeat(1, e)
    chunks = 6 if name.startswith("timestep_block.") else 1
    rows = torch.cat([part.repeat(e, *[1] * (value.ndim - 1)) for part in value.chunk(chunks)])
    if value.ndim == 1 or any(name.startswith(p) for p in _INPUT_NOT_REPLICATED):
        return rows
    return rows.repeat(1, e) / e


def _tiled_both_ways(name: str, value: Tensor) -> bool:
    return value.ndim == 2 and not any(name.startswith(p) for p in _INPUT_NOT_REPLICATED) and "table" not in name


def _symmetric_noise(name: str, value: Tensor, noise_db: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"expand/{seed}/{name}".encode()).digest()[:7], "big"))
    half = torch.randn(value.shape[0], value.shape[1] // 2, generator=generator)
    half *= value.std() * 10 ** (-noise_db / 20)
    return torch.cat([half, -half], 1)
