"""Width expansion of a trained DiT (paper 4.2.1, facts 6.2): every width grows by e, the function stays the same.

Inputs of a wide layer are e copies of the narrow ones, so weights are tiled e x e and divided by e; heads are copied, their width
stays. Noise breaks the symmetry of the copies: *symmetric* noise sums to zero over the e copies of the columns and so cancels on
replicated inputs; *plain* noise is independent and moves the function a little. Weights alone are expanded: the optimizer starts anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mugv.dit.model import MugDiT
from mugv.dit.sharding import full_shape, shard
from mugv.draws import generator_named
from mugv.errors import UserError
from mugv.recipe.schema import Expansion

_INPUT_NOT_REPLICATED = ("patch_embedder", "timestep_embedder.linear_1", "fps_embedder.linear_1", "context_embedder.linear_1")


@torch.no_grad()
def expand(narrow: Mapping[str, Tensor], wide: MugDiT, settings: Expansion, seed: int = 0) -> None:
    """Set the weights that this rank has of `wide` (width e * D, e * N heads) from the full tensors of a narrow network.

    `narrow` may read its tensors from disk: each is asked for once. Raises UserError naming the first tensor whose expanded shape is
    not that of `wide`.
    """
    e = settings.factor
    for name, parameter in wide.named_parameters():
        value = expand_tensor(name, narrow[name].float().to(parameter.device), e)
        if list(value.shape) != full_shape(parameter):
            raise UserError(f"expansion by {e}: {name} becomes {list(value.shape)}, the wide network has {full_shape(parameter)}")
        if settings.noise_db is not None and _replicated_columns(name, value):
            value += _noise(name, value, settings, seed)
        parameter.copy_(shard(value, parameter))


def expand_tensor(name: str, value: Tensor, e: int) -> Tensor:
    """One tensor of the wide network (facts 6.2, table)."""
    if "q_layernorm" in name or "k_layernorm" in name or name == "final_layer.linear.bias":
        return value.clone()
    if name == "final_layer.linear.weight":
        return value.repeat(1, e) / e
    if "scale_shift_table" in name:
        return value.repeat(1, e)
    chunks = 6 if name.startswith("timestep_block.") else 1
    rows = torch.cat([part.repeat(e, *[1] * (value.ndim - 1)) for part in value.chunk(chunks)])
    return rows.repeat(1, e) / e if _replicated_columns(name, value) else rows


def _replicated_columns(name: str, value: Tensor) -> bool:
    """Whether the columns of this weight read e copies of the narrow input."""
    return value.ndim == 2 and not name.startswith(_INPUT_NOT_REPLICATED) and "scale_shift_table" not in name


def _noise(name: str, value: Tensor, settings: Expansion, seed: int) -> Tensor:
    """Normal noise of the asked signal-to-noise ratio, the same whatever the layout. Its deviation is that of the weights, in dB below."""
    assert settings.noise_db is not None
    e = settings.factor
    generator = generator_named(f"expand/{seed}/{name}")
    noise = torch.randn(value.shape[0], e, value.shape[1] // e, generator=generator)
    if settings.noise == "symmetric":
        noise = (noise - noise.mean(1, keepdim=True)) * math.sqrt(e / (e - 1))
    return noise.flatten(1).to(value.device) * value.std() * 10 ** (-settings.noise_db / 20)
