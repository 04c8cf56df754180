"""The block's elementwise operations, each keeping for backward its input alone: modulated LayerNorm, gated residual, q/k norm with RoPE.

Written plainly they would keep five more [S, B, D] tensors a layer (normed tokens, 1 + scale, the gates, the float copies of q
and k). Shift, scale and gate are never expanded to more than one [S, B, D] temporary (facts 10.3, T18), and rotations are fp32 (T16).

Legend: S tokens of this rank, B clips side by side, K conditions of a clip row (given, noised; 2 a packed clip), D width,
N heads of this rank, d head width, P pairs of a head (d / 2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pick(vectors_BKD: Tensor, kind_SB: Tensor) -> Tensor:
    """The vector of each token's condition: [B, K, D] and indices [S, B] -> [S, B, D]."""
    if vectors_BKD.shape[1] == 2:
        given, noised = vectors_BKD.unbind(1)
        return torch.where(kind_SB.bool()[..., None], noised, given)
    return vectors_BKD[0].index_select(0, kind_SB[:, 0])[:, None]


def collect(gradient_SBD: Tensor, kind_SB: Tensor, conditions: int) -> Tensor:
    """Backward of pick: gradients of tokens summed by condition, [S, B, D] -> [B, K, D]."""
    chosen_SBK = torch.nn.functional.one_hot(kind_SB, conditions).to(gradient_SBD.dtype)
    return torch.bmm(chosen_SBK.permute(1, 2, 0), gradient_SBD.transpose(0, 1))


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, kind: Tensor, eps: float) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(x, mean, rstd, scale, kind)
        return torch.addcmul(pick(shift, kind), normed, 1 + pick(scale, kind))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, mean, rstd, scale, kind = ctx.saved_tensors
        conditions = scale.shape[1]
        normed = ((x - mean) * rstd).to(x.dtype)
        d_shift, d_scale = collect(gradient, kind, conditions), collect(gradient * normed, kind, conditions)
        inner = gradient * (1 + pick(scale, kind))
        d_x = torch.ops.aten.native_layer_norm_backward(inner, x, x.shape[-1:], mean, rstd, None, None, [True, False, False])[0]
        return d_x, d_shift, d_scale, None, None


def modulate(x_SBD: Tensor, shift_BKD: Tensor, scale_BKD: Tensor, kind_SB: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift with each token's own condition. Facts 4.3."""
    return _Modulate.apply(x_SBD, shift_BKD, scale_BKD, kind_SB, eps)


class _GatedAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, gate: Tensor, kind: Tensor) -> Tensor:
        ctx.save_for_backward(branch, gate, kind)
        return torch.addcmul(x, pick(gate, kind), branch)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        branch, gate, kind = ctx.saved_tensors
        return gradient, gradient * pick(gate, kind), collect(gradient * branch, kind, gate.shape[1]), None


def gated_add(x_SBD: Tensor, branch_SBD: Tensor, gate_BKD: Tensor, kind_SB: Tensor) -> Tensor:
    """x + gate * branch with each token's own gate."""
    return _GatedAdd.apply(x_SBD, branch_SBD, gate_BKD, kind_SB)


class _NormRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rotation: Tensor | None, eps: float) -> Tensor:
        wide = x.float()
        rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, rotation, rstd)
        return _turn(wide * rstd * weight.float(), rotation).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, rotation, rstd = ctx.saved_tensors
        gradient = _turn(gradient.float(), None if rotation is None else rotation.conj())
        normed = x.float() * rstd
        d_weight = (gradient * normed).flatten(0, -2).sum(0)
        inner = gradient * weight.float()
        d_x = rstd * torch.addcmul(inner, normed, (inner * normed).mean(-1, keepdim=True), value=-1)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None, None


def _turn(x_SBNd: Tensor, rotation_SP: Tensor | None) -> Tensor:
    """Adjacent pairs turned by unit complex numbers; fp32."""
    if rotation_SP is None:
        return x_SBNd
    pairs = torch.view_as_complex(x_SBNd.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation_SP[:, None, None]).flatten(-2)


def norm_rotate(x_SBNd: Tensor, weight_d: Tensor, rotation_SP: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """RMSNorm over the head width with a weight, then RoPE (complex64 rotations) where there is one; all in fp32. Facts 4.4."""
    return _NormRotate.apply(x_SBNd, weight_d, rotation_SP, eps)
