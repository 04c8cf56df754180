"""One block of MUG-DiT: self-attention with 3D RoPE, cross-attention to text, MLP, all on megatron's parallel linears.

Legend: S tokens, B clips, L text tokens, D width, N heads, d head width. Layout is megatron's [S, B, D].
A token is *noised* (modulated by its clip's timestep) or *given* (timestep 0: conditioning frames, start and end token).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from mugv.dit.config import DiTConfig
from mugv.dit.rope import rotate


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis with a learned weight [d]; computed in fp32."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).type_as(x)


def column_linear(config: DiTConfig, inputs: int, outputs: int) -> ColumnParallelLinear:
    """Linear whose outputs are split over the tensor-parallel ranks."""
    return ColumnParallelLinear(inputs, outputs, config=config, init_method=nn.init.zeros_, bias=True, gather_output=False)


def row_linear(config: DiTConfig, inputs: int, outputs: int) -> RowParallelLinear:
    """Linear whose inputs are split over the tensor-parallel ranks; the outputs are summed."""
    return RowParallelLinear(
        inputs, outputs, config=config, init_method=nn.init.zeros_, bias=True, input_is_parallel=True, skip_bias_add=False
    )


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention without causality. query [S, B, N, d], key and value [L, B, N, d], mask bool [B, L] with True
    for keys that exist; result [S, B, N * d]."""
    q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
    bias = None if mask is None else mask[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).permute(2, 0, 1, 3).flatten(2)


class SelfAttention(MegatronModule):
    """Full attention over all tokens of a clip; RMSNorm on q and k, then RoPE. Output rows of linear_qkv: (heads, 3, d)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.head_dim = config.head_dim
        self.linear_qkv = column_linear(config, config.hidden_size, 3 * config.hidden_size)
        self.q_layernorm, self.k_layernorm = RMSNorm(self.head_dim), RMSNorm(self.head_dim)
        self.linear_proj = row_linear(config, config.hidden_size, config.hidden_size)

    def forward(self, x_SBD: Tensor, rope: Tensor) -> Tensor:
        qkv, _ = self.linear_qkv(x_SBD)
        query, key, value = qkv.unflatten(-1, (-1, 3, self.head_dim)).unbind(-2)
        query, key = rotate(self.q_layernorm(query), rope), rotate(self.k_layernorm(key), rope)
        return self.linear_proj(attend(query, key, value))[0]


class CrossAttention(MegatronModule):
    """Attention of all tokens to the clip's text; no RoPE. Output rows of linear_kv: (heads, 2, d)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.head_dim = config.head_dim
        self.linear_q = column_linear(config, config.hidden_size, config.hidden_size)
        self.linear_kv = column_linear(config, config.hidden_size, 2 * config.hidden_size)
        self.q_layernorm, self.k_layernorm = RMSNorm(self.head_dim), RMSNorm(self.head_dim)
        self.linear_proj = row_linear(config, config.hidden_size, config.hidden_size)

    def forward(self, x_SBD: Tensor, text_LBD: Tensor, text_mask_BL: Tensor) -> Tensor:
        query = self.linear_q(x_SBD)[0].unflatten(-1, (-1, self.head_dim))
        key, value = self.linear_kv(text_LBD)[0].unflatten(-1, (-1, 2, self.head_dim)).unbind(-2)
        return self.linear_proj(attend(self.q_layernorm(query), self.k_layernorm(key), value, text_mask_BL))[0]


class MLP(MegatronModule):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.linear_fc1 = column_linear(config, config.hidden_size, config.ffn_hidden_size)
        self.linear_fc2 = row_linear(config, config.ffn_hidden_size, config.hidden_size)

    def forward(self, x_SBD: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x_SBD)[0], approximate="tanh"))[0]


class Modulation:
    """Shift, scale or gate of every token from two vectors a clip: one for noised tokens, one for given ones.

    Nothing of size [S, 6, D] is made: each of the six is selected when it is used.
    """

    def __init__(self, noised_B6D: Tensor, given_B6D: Tensor, noised_mask_SB1: Tensor) -> None:
        self.noised, self.given, self.mask = noised_B6D, given_B6D, noised_mask_SB1

    def plus(self, table_6D: Tensor) -> Modulation:
        return Modulation(self.noised + table_6D, self.given + table_6D, self.mask)

    def __getitem__(self, chunk: int) -> Tensor:
        """[S, B, D] of chunk 0..5: shift, scale, gate of attention, then of the MLP."""
        return torch.where(self.mask, self.noised[None, :, chunk], self.given[None, :, chunk])


class DiTLayer(MegatronModule):
    """x += gate SelfAttn(modulate(LN x)); x += CrossAttn(LN x, text); x += gate MLP(modulate(LN x)). Facts 4.3."""

    def __init__(self, config: DiTConfig, layer_number: int) -> None:
        super().__init__(config)
        self.layer_number = layer_number
        self.width = config.hidden_size
        self.scale_shift_table = nn.Parameter(torch.zeros(6, self.width))
        self.self_attention = SelfAttention(config)
        self.pre_cross_attn_layernorm = nn.LayerNorm(self.width, eps=config.layernorm_epsilon)
        self.cross_attention = CrossAttention(config)
        self.mlp = MLP(config)

    def forward(self, x_SBD: Tensor, modulation: Modulation, rope: Tensor, text_LBD: Tensor, text_mask_BL: Tensor) -> Tensor:
        m = modulation.plus(self.scale_shift_table)
        x_SBD = x_SBD + m[2] * self.self_attention(self._norm(x_SBD) * (1 + m[1]) + m[0], rope)
        x_SBD = x_SBD + self.cross_attention(self.pre_cross_attn_layernorm(x_SBD), text_LBD, text_mask_BL)
        return x_SBD + m[5] * self.mlp(self._norm(x_SBD) * (1 + m[4]) + m[3])

    def _norm(self, x_SBD: Tensor) -> Tensor:
        return F.layer_norm(x_SBD, (self.width,), eps=1e-6)
