"""One block of MUG-DiT: self-attention with 3D RoPE, cross-attention to text, MLP, all on megatron's parallel linears.

Legend: S tokens, B clips side by side, K conditions of a clip row, L text tokens, D width, N heads, d head width. Layout is
megatron's [S, B, D]. A token is *noised* (modulated by its clip's timestep) or *given* (timestep 0: conditioning frames, start and
end token). Under sequence parallelism S is this rank's local part between the linears; column linears gather this context rank's chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from mugv.dit import attention
from mugv.dit.config import DiTConfig
from mugv.dit.fused import gated_add, modulate, norm_rotate
from mugv.dit.sequence import Span, TokenLayout

Linear = TypeVar("Linear", bound=nn.Module)


@dataclass(frozen=True)
class Conditioning:
    """What every block reads beside the tokens. `kind` [S, B] picks one of the K conditions for each local token."""

    vectors_BK6D: Tensor
    text_LBD: Tensor
    kind_SB: Tensor
    layout: TokenLayout
    text_spans: tuple[Span, ...]
    text_mask_BL: Tensor | None
    """Padding of batched texts; packed texts have none."""
    back_end: str

    def with_tensors(self, vectors_BK6D: Tensor, text_LBD: Tensor) -> Conditioning:
        return replace(self, vectors_BK6D=vectors_BK6D, text_LBD=text_LBD)


def column_linear(config: DiTConfig, inputs: int, outputs: int) -> ColumnParallelLinear:
    """Linear whose outputs are split over the tensor-parallel ranks."""
    linear = ColumnParallelLinear(inputs, outputs, config=config, init_method=nn.init.zeros_, bias=True, gather_output=False)
    return _split(linear, 0)


def row_linear(config: DiTConfig, inputs: int, outputs: int) -> RowParallelLinear:
    """Linear whose inputs are split over the tensor-parallel ranks; the outputs are summed."""
    linear = RowParallelLinear(
        inputs, outputs, config=config, init_method=nn.init.zeros_, bias=True, input_is_parallel=True, skip_bias_add=False
    )
    return _split(linear, 1)


def _split(linear: Linear, dimension: int) -> Linear:
    """megatron marks a weight as split only when it initialises it; ours are drawn by mugv.dit.init."""
    if not hasattr(linear.weight, "tensor_model_parallel"):
        set_tensor_model_parallel_attributes(linear.weight, is_parallel=True, dim=dimension, stride=1)
    return linear


def _whole_sequence(config: DiTConfig) -> DiTConfig:
    """The configuration of a linear whose input is not split over tensor ranks."""
    whole = copy(config)
    whole.sequence_parallel = False
    return whole


class RMSNorm(nn.Module):
    """The weight of a root-mean-square norm over the head width; mugv.dit.fused.norm_rotate does the arithmetic."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self) -> Tensor:
        """The weight [d]; a call, so that megatron's hooks on modules have gathered it."""
        return self.weight


class Recompute:
    """Selective recompute: `keep` runs an elementwise function; `drop` frees its result once `used` has consumed it, to be made again
    in backward. Off, both do nothing more than call."""

    def __init__(self, active: bool) -> None:
        self.active = active
        self.pending: Any = None

    def keep(self, function: Callable[..., Any], *args: Tensor) -> Any:
        if not self.active:
            return function(*args)
        self.pending = CheckpointWithoutOutput(fp8=None)  # type: ignore[arg-type]
        return self.pending.checkpoint(function, *args)

    def drop(self, used: Tensor) -> Tensor:
        if self.pending is not None:
            self.pending.discard_output_and_register_recompute(used)
            self.pending = None
        return used


class SelfAttention(MegatronModule):
    """Full attention over all tokens of a clip; RMSNorm on q and k, then RoPE. Output rows of linear_qkv: (heads, 3, d)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.head_dim = config.head_dim
        self.linear_qkv = column_linear(config, config.hidden_size, 3 * config.hidden_size)
        self.q_layernorm, self.k_layernorm = RMSNorm(self.head_dim), RMSNorm(self.head_dim)
        self.linear_proj = row_linear(config, config.hidden_size, config.hidden_size)
        self.group = parallel_state.get_context_parallel_group() if config.context_parallel_size > 1 else None
        heads = config.num_attention_heads // config.tensor_model_parallel_size
        self.ulysses = config.context_method == "ulysses" or (config.context_method == "auto" and heads % config.context_parallel_size == 0)

    def forward(self, qkv: Tensor, condition: Conditioning, recompute: Recompute) -> Tensor:
        """linear_qkv's output [S of the chunk, B, 3 N d of this rank] -> what linear_proj reads."""
        query, key, value = qkv.unflatten(-1, (-1, 3, self.head_dim)).unbind(-2)
        rotation = condition.layout.rotation(self.head_dim, str(qkv.device))

        def turn(query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor) -> tuple[Tensor, Tensor]:
            return norm_rotate(query, query_weight, rotation), norm_rotate(key, key_weight, rotation)

        weights = self.q_layernorm(), self.k_layernorm()
        if self.group is not None:
            return self._over_context(*turn(query, key, *weights), value, condition)
        query, key = recompute.keep(turn, query, key, *weights)
        spans = condition.layout.self_spans(whole=True)
        return recompute.drop(attention.attend(query, key, value, spans, condition.back_end))

    def _over_context(self, query: Tensor, key: Tensor, value: Tensor, condition: Conditioning) -> Tensor:
        assert self.group is not None
        if self.ulysses:
            query, key, value = attention.tokens_to_heads((query, key, value), self.group)
            spans = condition.layout.self_spans(whole=True)
            return attention.heads_to_tokens(attention.attend(query, key, value, spans, condition.back_end), self.group)
        key, value = attention.gather_keys(key, value, self.group)
        return attention.attend(query, key, value, condition.layout.self_spans(whole=False), condition.back_end)


class CrossAttention(MegatronModule):
    """Attention of all tokens to the clip's text; no RoPE. Output rows of linear_kv: (heads, 2, d).

    The text is whole on every rank: its linear does not gather a sequence, and returns its full gradient to each tensor rank.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.head_dim = config.head_dim
        self.linear_q = column_linear(config, config.hidden_size, config.hidden_size)
        self.linear_kv = column_linear(_whole_sequence(config), config.hidden_size, 2 * config.hidden_size)
        self.q_layernorm, self.k_layernorm = RMSNorm(self.head_dim), RMSNorm(self.head_dim)
        self.linear_proj = row_linear(config, config.hidden_size, config.hidden_size)

    def forward(self, query: Tensor, condition: Conditioning) -> Tensor:
        """linear_q's output [S of the chunk, B, N d of this rank] -> what linear_proj reads."""
        query = norm_rotate(query.unflatten(-1, (-1, self.head_dim)), self.q_layernorm())
        key, value = self.linear_kv(condition.text_LBD)[0].unflatten(-1, (-1, 2, self.head_dim)).unbind(-2)
        key = norm_rotate(key, self.k_layernorm())
        return attention.attend(query, key, value, condition.text_spans, condition.back_end, condition.text_mask_BL)


class MLP(MegatronModule):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.linear_fc1 = column_linear(config, config.hidden_size, config.ffn_hidden_size)
        self.linear_fc2 = row_linear(config, config.ffn_hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, recompute: Recompute) -> Tensor:
        """linear_fc1's output -> [S, B, D]."""
        hidden = recompute.keep(lambda x: F.gelu(x, approximate="tanh"), hidden)
        return recompute.drop(self.linear_fc2(hidden)[0])


class DiTLayer(MegatronModule):
    """x += gate SelfAttn(modulate(LN x)); x += CrossAttn(LN x, text); x += gate MLP(modulate(LN x)). Facts 4.3."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config)
        self.selective = config.recompute_granularity == "selective"
        self.scale_shift_table = nn.Parameter(torch.zeros(6, config.hidden_size))
        self.self_attention = SelfAttention(config)
        self.pre_cross_attn_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.cross_attention = CrossAttention(config)
        self.mlp = MLP(config)

    def forward(self, x_SBD: Tensor, condition: Conditioning) -> Tensor:
        recompute = Recompute(self.selective and self.training and torch.is_grad_enabled())
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (condition.vectors_BK6D + self.scale_shift_table).unbind(2)
        kind = condition.kind_SB

        def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return modulate(x, shift, scale, kind)

        attend, cross = self.self_attention, self.cross_attention
        qkv = recompute.drop(attend.linear_qkv(recompute.keep(modulated, x_SBD, shift, scale))[0])
        x_SBD = gated_add(x_SBD, attend.linear_proj(attend(qkv, condition, recompute))[0], gate, kind)
        query = recompute.drop(cross.linear_q(recompute.keep(self._pre_cross, x_SBD))[0])
        x_SBD = x_SBD + cross.linear_proj(cross(query, condition))[0]
        hidden = recompute.drop(self.mlp.linear_fc1(recompute.keep(modulated, x_SBD, mlp_shift, mlp_scale))[0])
        return gated_add(x_SBD, self.mlp(hidden, recompute), mlp_gate, kind)

    def _pre_cross(self, x_SBD: Tensor) -> Tensor:
        return self.pre_cross_attn_layernorm(x_SBD)
