"""Names and layout of the published inference checkpoint (facts 4.1 to 4.3, 7.4) and ours, both ways, bit for bit.

A single table names every tensor of both sides with its shapes. Two kinds of tensor differ in layout: the rows of fused projections
are ordered (3 or 2, heads, d) there and (heads, 3 or 2, d) here, so that tensor parallelism can cut by heads; the patch embedding is
a Conv3d weight [D, C, 1, p, p] there and a Linear weight [D, C * p * p] here. Everything else is the same under another name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mugv.errors import UserError
from mugv.recipe.models import DiTModel

Shape = tuple[int, ...]
FREQUENCY_WIDTH = 256
IGNORED = {
    "y_embedder.y_embedding": "null text of the published training code; the sampler encodes its own negative prompt",
    "context_embedder.drop_emb": "the same null text under its name in the training code",
}
"""What a released file may carry beside the network; left out and reported."""


@dataclass(frozen=True)
class Rule:
    """One tensor on both sides. `fused` is 3 for qkv, 2 for kv, 1 for everything else."""

    ours: str
    released: str
    shape: Shape
    released_shape: Shape
    fused: int = 1


def rules(model: DiTModel, text_width: int) -> list[Rule]:
    """Every tensor of the network, in the order of the layers."""
    d, mlp, channels, p = model.hidden, model.mlp_ratio * model.hidden, model.latent_channels, model.patch
    outputs = p * p * channels * (2 if model.learned_sigma else 1)
    out = [
        _same("start_token", "start_token", d),
        _same("end_token", "end_token", d),
        Rule("patch_embedder.weight", "x_embedder.proj.weight", (d, channels * p * p), (d, channels, 1, p, p)),
        _same("patch_embedder.bias", "x_embedder.proj.bias", d),
        *_linear("timestep_embedder.linear_1", "t_embedder.mlp.0", d, FREQUENCY_WIDTH),
        *_linear("timestep_embedder.linear_2", "t_embedder.mlp.2", d, d),
        *_linear("fps_embedder.linear_1", "fps_embedder.mlp.0", d, FREQUENCY_WIDTH),
        *_linear("fps_embedder.linear_2", "fps_embedder.mlp.2", d, d),
        *_linear("timestep_block", "t_block.1", 6 * d, d),
        *_linear("context_embedder.linear_1", "y_embedder.y_proj.fc1", d, text_width),
        *_linear("context_embedder.linear_2", "y_embedder.y_proj.fc2", d, d),
    ]
    for i in range(model.layers):
        out += _block(f"layers.{i}", f"blocks.{i}", d, mlp, model.head_dim)
    out += [
        _same("final_layer.scale_shift_table", "final_layer.scale_shift_table", 2, d),
        *_linear("final_layer.linear", "final_layer.linear", outputs, d),
    ]
    return out


def _block(ours: str, released: str, d: int, mlp: int, head: int) -> list[Rule]:
    own, attn, cross, text = f"{ours}.self_attention", f"{released}.attn", f"{ours}.cross_attention", f"{released}.cross_attn"
    return [
        _same(f"{ours}.scale_shift_table", f"{released}.scale_shift_table", 6, d),
        *_linear(f"{own}.linear_qkv", f"{attn}.qkv", 3 * d, d, fused=3),
        _same(f"{own}.q_layernorm.weight", f"{attn}.q_norm.weight", head),
        _same(f"{own}.k_layernorm.weight", f"{attn}.k_norm.weight", head),
        *_linear(f"{own}.linear_proj", f"{attn}.proj", d, d),
        _same(f"{ours}.pre_cross_attn_layernorm.weight", f"{released}.cross_attn_norm.weight", d),
        _same(f"{ours}.pre_cross_attn_layernorm.bias", f"{released}.cross_attn_norm.bias", d),
        *_linear(f"{cross}.linear_q", f"{text}.q_linear", d, d),
        *_linear(f"{cross}.linear_kv", f"{text}.kv_linear", 2 * d, d, fused=2),
        _same(f"{cross}.q_layernorm.weight", f"{text}.q_norm.weight", head),
        _same(f"{cross}.k_layernorm.weight", f"{text}.k_norm.weight", head),
        *_linear(f"{cross}.linear_proj", f"{text}.proj", d, d),
        *_linear(f"{ours}.mlp.linear_fc1", f"{released}.mlp.fc1", mlp, d),
        *_linear(f"{ours}.mlp.linear_fc2", f"{released}.mlp.fc2", d, mlp),
    ]


def _same(ours: str, released: str, *shape: int) -> Rule:
    return Rule(ours, released, shape, shape)


def _linear(ours: str, released: str, rows: int, columns: int, fused: int = 1) -> list[Rule]:
    weight, bias = (rows, columns), (rows,)
    return [
        Rule(f"{ours}.weight", f"{released}.weight", weight, weight, fused),
        Rule(f"{ours}.bias", f"{released}.bias", bias, bias, fused),
    ]


def released_shapes(model: DiTModel, text_width: int) -> dict[str, Shape]:
    """Name -> shape of the published state dict for a network of this size."""
    return {rule.released: rule.released_shape for rule in rules(model, text_width)}


def own_shapes(model: DiTModel, text_width: int) -> dict[str, Shape]:
    """Name -> full shape of our parameters."""
    return {rule.ours: rule.shape for rule in rules(model, text_width)}


def to_ours(rule: Rule, tensor: Tensor, heads: int) -> Tensor:
    """A released tensor in our layout; a view where the layouts agree."""
    if rule.fused > 1:
        tensor = tensor.reshape(rule.fused, heads, -1, *rule.shape[1:]).transpose(0, 1)
    return tensor.reshape(rule.shape)


def to_released(rule: Rule, tensor: Tensor, heads: int) -> Tensor:
    """Inverse of to_ours."""
    if rule.fused > 1:
        tensor = tensor.reshape(heads, rule.fused, -1, *rule.shape[1:]).transpose(0, 1)
    return tensor.reshape(rule.released_shape)


def infer_size(shapes: Mapping[str, Shape]) -> tuple[DiTModel, int]:
    """Size of the network and text width from the shapes of a released state dict; heads follow from the width of the q norm.

    Raises UserError when the tensors that tell the size are not there, or tell of no network that MUG-DiT can be.
    """
    try:
        width, channels, _, patch, _ = shapes["x_embedder.proj.weight"]
        layers = 1 + max(int(m[1]) for name in shapes if (m := re.match(r"blocks\.(\d+)\.", name)))
        text_width = shapes["y_embedder.y_proj.fc1.weight"][1]
        model = DiTModel(
            layers=layers,
            hidden=width,
            heads=width // shapes["blocks.0.attn.q_norm.weight"][0],
            latent_channels=channels,
            patch=patch,
            mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] // width,
            learned_sigma=shapes["final_layer.linear.weight"][0] == 2 * channels * patch**2,
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        names = ", ".join(sorted(shapes)[:3])
        raise UserError(f"not a MUG-DiT: the size cannot be read from its {len(shapes)} tensors ({names}, ...): {_first(error)}") from None
    return model, text_width


def _first(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]}"
    return (str(error).splitlines() or [""])[0]
