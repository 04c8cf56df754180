"""Attention behind one switch, and its exchange over context-parallel ranks.

    sdpa    torch's scaled_dot_product_attention, clip by clip: CPU and GPU
    varlen  torch.nn.attention.varlen (FlashAttention inside torch): GPU, several clips in one call
    flash   the flash-attn package: GPU
    te      Transformer Engine: GPU
    auto    sdpa on CPU and for fp32; on GPU flash for packed clips where it is installed, else varlen, and sdpa for batched ones

Context parallelism swaps tokens for heads (Ulysses) where the ranks divide this rank's heads, else gathers keys and values.
Legend: S query tokens, L key tokens, B clips side by side, N heads, d head width. All attention is full, never causal.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import all_to_all, gather_from_sequence_parallel_region
from torch import Tensor
from torch.distributed import ProcessGroup

from mugv.dit.sequence import Span
from mugv.errors import MissingFeatureError

logger = logging.getLogger(__name__)

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""(q [Tq, N, d], k, v [Tk, N, d], cumulative query and key lengths, longest query and key) -> [Tq, N, d]."""
BACK_ENDS = ("sdpa", "varlen", "flash", "te")


def attend(
    query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], back_end: str = "sdpa", mask_BL: Tensor | None = None
) -> Tensor:
    """query [S, B, N, d], key and value [L, B, N, d] -> [S, B, N d]; rows outside the spans are zero.

    One span: the B clips in one call, keys where `mask_BL` (bool) is False ignored. Several spans (packed clips): B = 1.
    """
    if back_end != "sdpa" and mask_BL is None and query.shape[1] == 1:
        out = _varlen_spans(query, key, value, spans, varlen_function(back_end))
    else:
        parts = [
            _sdpa(query[s.query_start : s.query_stop], key[s.key_start : s.key_stop], value[s.key_start : s.key_stop], mask_BL)
            for s in spans
        ]
        out = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else query[:0].flatten(2)
    missing = query.shape[0] - out.shape[0]
    return F.pad(out, (0, 0, 0, 0, 0, missing)) if missing else out


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask_BL: Tensor | None) -> Tensor:
    q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
    bias = None if mask_BL is None else mask_BL[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).permute(2, 0, 1, 3).flatten(2)


def _varlen_spans(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], function: Varlen) -> Tensor:
    """All spans in one call. Spans follow one another on both axes, so they are one slice of each."""
    if not spans:
        return query[:0].flatten(2)
    q = query[: spans[-1].query_stop, 0].contiguous()
    k, v = (x[spans[0].key_start : spans[-1].key_stop, 0].contiguous() for x in (key, value))
    queries, keys = [s.query_stop - s.query_start for s in spans], [s.key_stop - s.key_start for s in spans]
    cu_q, cu_k = (_cumulative(tuple(lengths), str(q.device)) for lengths in (queries, keys))
    return function(q, k, v, cu_q, cu_k, max(queries), max(keys)).flatten(1)[:, None]


@lru_cache(maxsize=64)
def _cumulative(lengths: tuple[int, ...], device: str) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


def choose(wanted: str, device: str, packed: bool, dtype: torch.dtype = torch.bfloat16) -> str:
    """The back end that runs for `wanted` (the recipe's parallel.attention), logged once. Raises MissingFeatureError when it cannot run."""
    if device == "cpu":
        if wanted not in ("auto", "sdpa"):
            raise MissingFeatureError(f"parallel.attention = {wanted} needs a CUDA device; use auto or sdpa")
        found = "sdpa"
    elif wanted != "auto":
        found = wanted
    elif packed and dtype != torch.float32:  # these kernels take 16-bit numbers
        found = "flash" if importlib.util.find_spec("flash_attn") else "varlen"
    else:
        found = "sdpa"
    _announce(wanted, found, device, packed)
    return found


@lru_cache(maxsize=16)
def _announce(wanted: str, found: str, device: str, packed: bool) -> None:
    if found != "sdpa":
        varlen_function(found)
    logger.info("attention back end: %s for %s clips on %s (asked for: %s)", found, "packed" if packed else "batched", device, wanted)


@lru_cache(maxsize=4)
def varlen_function(back_end: str) -> Varlen:
    """The variable-length attention of a back end. Raises MissingFeatureError when its package is absent."""
    if back_end == "varlen":
        from torch.nn.attention.varlen import varlen_attn

        return lambda *arguments: cast(Tensor, varlen_attn(*arguments))
    if back_end == "flash":
        try:
            from flash_attn import flash_attn_varlen_func
        except ImportError:
            raise MissingFeatureError("parallel.attention = flash needs the package flash-attn (pip install 'mugv[gpu]')") from None
        return lambda *arguments: cast(Tensor, flash_attn_varlen_func(*arguments))
    return _transformer_engine()


def _transformer_engine() -> Varlen:
    try:
        from transformer_engine.pytorch import DotProductAttention
    except (ImportError, RuntimeError) as error:
        raise MissingFeatureError(f"parallel.attention = te needs transformer-engine (pip install 'mugv[gpu]'): {error}") from None

    @lru_cache(maxsize=8)
    def core(heads: int, width: int) -> Callable[..., Tensor]:
        return DotProductAttention(heads, width, attention_dropout=0.0, qkv_format="thd", attn_mask_type="padding")

    def run(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
        out = core(q.shape[1], q.shape[2])(q, k, v, cu_seqlens_q=cu_q, cu_seqlens_kv=cu_k, max_seqlen_q=max_q, max_seqlen_kv=max_k)
        return out.view_as(q)

    return run


def tokens_to_heads(qkv: Sequence[Tensor], group: ProcessGroup) -> tuple[Tensor, ...]:
    """Ulysses, forward: each [S / c, B, N, d] of this rank's tokens -> [S, B, N / c, d] of this rank's share of the heads."""
    c = group.size()
    stacked = torch.stack(tuple(qkv), 2).unflatten(3, (c, -1))
    sent = stacked.permute(3, 0, 1, 2, 4, 5).contiguous()
    received = all_to_all(group, sent.flatten(0, 1))
    return received.unbind(2)


def heads_to_tokens(x: Tensor, group: ProcessGroup) -> Tensor:
    """Ulysses, backward way: [S, B, N / c * d] -> [S / c, B, N * d], heads in the order of the ranks."""
    c = group.size()
    received = all_to_all(group, x.contiguous()).unflatten(0, (c, -1))
    return received.permute(1, 2, 0, 3).flatten(2)


def gather_keys(key: Tensor, value: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Keys and values of all context ranks, [S / c, B, N, d] -> [S, B, N, d] each; gradients are summed back."""
    both = gather_from_sequence_parallel_region(torch.stack([key, value], 2), tensor_parallel_output_grad=True, group=group)
    gathered_key, gathered_value = both.unbind(2)
    return gathered_key, gathered_value
