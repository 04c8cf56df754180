"""The megatron tax: forward and backward of our DiT blocks against plain PyTorch blocks with the same mathematics.

    python -m benchmarks.dit_step            512 and 2,048 tokens, 4 blocks, fp32, median of 20

Weights are copied, outputs and gradients are compared first (1e-5 of each tensor's largest entry), then both run in turn in this
process. Width 252 = 6 heads of 42: heads must be multiples of 6 for 3D RoPE, which 256 has no division into; 252 is the nearest.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

warnings.filterwarnings("ignore", module="megatron")

from mugv.dit.config import make_config  # noqa: E402
from mugv.dit.init import initialise  # noqa: E402
from mugv.dit.layers import Conditioning  # noqa: E402
from mugv.dit.model import MugDiT  # noqa: E402
from mugv.dit.sequence import TokenLayout  # noqa: E402
from mugv.recipe.models import DiTModel  # noqa: E402
from mugv.recipe.schema import Optimizer, Parallel  # noqa: E402
from mugv.training import process_groups  # noqa: E402
from mugv.training.engine import Engine  # noqa: E402

GRIDS = {512: (5, 6, 17), 2048: (6, 11, 31)}
"""Latent frames, rows and columns of patches; with start and end token exactly that many tokens."""
TEXT_TOKENS = 64
BAR = 1.05


class PlainAttention(nn.Module):
    """Self-attention (`context` None) or cross-attention of [B, S, D] with RMSNorm on q and k and, where given, RoPE."""

    def __init__(self, width: int, heads: int, cross: bool) -> None:
        super().__init__()
        self.heads = heads
        if cross:
            self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.RMSNorm(width // heads, eps=1e-6), nn.RMSNorm(width // heads, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        if context is None:
            q, k, v = self.qkv(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        else:
            q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            k, v = self.kv(context).unflatten(-1, (self.heads, 2, -1)).permute(3, 0, 2, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = turn(q, rope), turn(k, rope)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def turn(x: Tensor, rope: Tensor) -> Tensor:
    """Adjacent pairs of the last axis times complex `rope` [S, d / 2], in fp32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rope).flatten(-2).type_as(x)


class PlainBlock(nn.Module):
    """The block of facts 4.3 as one would write it in PyTorch; [B, S, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Parameter(torch.zeros(6, width))
        self.attention, self.cross = PlainAttention(width, heads, False), PlainAttention(width, heads, True)
        self.cross_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, given: Tensor, noised: Tensor, mask: Tensor, rope: Tensor, text: Tensor) -> Tensor:
        chunks = zip((self.table + noised).unbind(1), (self.table + given).unbind(1), strict=True)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (torch.where(mask, a[:, None], b[:, None]) for a, b in chunks)
        x = x + gate * self.attention(self.norm(x) * (1 + scale) + shift, rope)
        x = x + self.cross(self.cross_norm(x), context=text)
        return x + mlp_gate * self.mlp(self.norm(x) * (1 + mlp_scale) + mlp_shift)

    def norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=1e-6)


NAMES = {
    "scale_shift_table": "table",
    "self_attention.linear_qkv": "attention.qkv",
    "self_attention.q_layernorm": "attention.q_norm",
    "self_attention.k_layernorm": "attention.k_norm",
    "self_attention.linear_proj": "attention.proj",
    "pre_cross_attn_layernorm": "cross_norm",
    "cross_attention.linear_q": "cross.q",
    "cross_attention.linear_kv": "cross.kv",
    "cross_attention.q_layernorm": "cross.q_norm",
    "cross_attention.k_layernorm": "cross.k_norm",
    "cross_attention.linear_proj": "cross.proj",
    "mlp.linear_fc1": "mlp.0",
    "mlp.linear_fc2": "mlp.2",
}


def plain_name(name: str) -> str:
    """`layers.2.mlp.linear_fc1.weight`, counted from 1 -> `1.mlp.0.weight`."""
    _, number, rest = name.split(".", 2)
    ours = max((key for key in NAMES if rest.startswith(key)), key=len)
    return f"{int(number) - 1}.{NAMES[ours]}{rest.removeprefix(ours)}"


@dataclass
class Pair:
    """Both stacks with equal weights and inputs; each `run` does one forward and backward.

    x and gradient [S, B, D], vectors [B, K, 6, D] (given, noised), text [L, B, D], noised bool [S, B]; B is 1.
    """

    ours: MugDiT
    plain: nn.ModuleList
    x: Tensor
    vectors: Tensor
    text: Tensor
    noised: Tensor
    tokens: TokenLayout
    gradient: Tensor

    def run_ours(self) -> tuple[Tensor, Tensor]:
        """Output and gradient of the input, [S, B, D]."""
        x = self.x.clone().requires_grad_()
        condition = Conditioning(
            vectors_BK6D=self.vectors,
            text_LBD=self.text,
            kind_SB=self.noised.long(),
            layout=self.tokens,
            text_spans=self.tokens.text_spans((TEXT_TOKENS,)),
            text_mask_BL=None,
            back_end="sdpa",
        )
        out = x
        for layer in self.ours.layers.values():
            out = layer(out, condition)
        out.backward(self.gradient)
        return out.detach(), x.grad

    def run_plain(self) -> tuple[Tensor, Tensor]:
        x = self.x.transpose(0, 1).clone().requires_grad_()
        given, noised = self.vectors.unbind(1)
        mask, text = self.noised.T[..., None], self.text.transpose(0, 1)
        rope = self.tokens.rotation(self.ours.config.head_dim, "cpu")
        out = x
        for block in self.plain:
            out = block(out, given, noised, mask, rope, text)
        out.backward(self.gradient.transpose(0, 1))
        return out.detach().transpose(0, 1), x.grad.transpose(0, 1)


def make_pair(tokens: int, hidden: int, heads: int, layers: int) -> Pair:
    """Blocks 1 to `layers` of a network with two more: a part without embedders and head."""
    torch.manual_seed(0)
    process_groups.initialise(Parallel())
    ours = MugDiT(make_config(DiTModel(layers=layers + 2, hidden=hidden, heads=heads), 64, 1, Parallel()), range(1, layers + 1))
    initialise(ours, 0)
    plain = nn.ModuleList(PlainBlock(hidden, heads) for _ in range(layers))
    plain.load_state_dict({plain_name(name): p.detach().clone() for name, p in ours.named_parameters()})
    layout = TokenLayout((GRIDS[tokens],))
    noised = torch.ones(tokens, 1, dtype=torch.bool)
    noised[[0, -1]] = False
    x, gradient = torch.randn(tokens, 1, hidden), torch.randn(tokens, 1, hidden)
    return Pair(ours, plain, x, torch.randn(1, 2, 6, hidden), torch.randn(TEXT_TOKENS, 1, hidden), noised, layout, gradient)


def assert_equal(pair: Pair) -> float:
    """The largest difference of outputs and gradients, relative to each tensor's largest entry; raises above 1e-5."""
    found = dict(zip(("output", "gradient of the input"), zip(pair.run_ours(), pair.run_plain(), strict=True), strict=True))
    plain = dict(pair.plain.named_parameters())
    found |= {name: (p.grad, plain[plain_name(name)].grad) for name, p in pair.ours.named_parameters()}
    worst = 0.0
    for name, (a, b) in found.items():
        difference = float((a - b).abs().max() / b.abs().max().clamp(min=1e-3))
        if not difference <= 1e-5:
            raise SystemExit(f"{name}: ours and plain differ by {difference:.1e}")
        worst = max(worst, difference)
    return worst


def alternately(functions: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each function, run in turn, the order reversed every time."""
    seconds: list[list[float]] = [[] for _ in functions]
    for i in range(repeats + 3):
        order = range(len(functions)) if i % 2 else reversed(range(len(functions)))
        for j in order:
            began = time.perf_counter()
            functions[j]()
            if i >= 3:  # the first three warm up
                seconds[j].append(time.perf_counter() - began)
    return seconds


def cleared(parameters: nn.Module, run: Callable[[], object]) -> Callable[[], None]:
    def function() -> None:
        for parameter in parameters.parameters():
            parameter.grad = None
        run()

    return function


def steps(pair: Pair) -> list[Callable[[], None]]:
    """A whole optimizer step of each: ours in megatron's buffers and optimizer, plain with clipping and AdamW."""
    engine = Engine(pair.ours, Optimizer(learning_rate=1e-5), Parallel())
    adamw = torch.optim.AdamW(pair.plain.parameters(), lr=1e-5, betas=(0.9, 0.99), eps=1e-10, weight_decay=0.0)
    wrapped = engine.wrapped[0]

    def ours() -> None:
        wrapped.zero_grad_buffer()
        engine.optimizer.zero_grad()
        pair.run_ours()
        wrapped.finish_grad_sync()
        engine.optimizer.step()

    def plain() -> None:
        adamw.zero_grad()
        pair.run_plain()
        nn.utils.clip_grad_norm_(pair.plain.parameters(), 1.0)
        adamw.step()

    return [ours, plain]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", choices=sorted(GRIDS), default=sorted(GRIDS))
    parser.add_argument("--hidden", type=int, default=252)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    print(f"{given.layers} blocks, width {given.hidden}, {given.heads} heads, fp32, {TEXT_TOKENS} text tokens")
    print(f"{torch.get_num_threads()} threads, median of {given.repeats}, bar {BAR}")
    for tokens in given.tokens:
        pair = make_pair(tokens, given.hidden, given.heads, given.layers)
        worst = assert_equal(pair)
        both = [cleared(pair.ours, pair.run_ours), cleared(pair.plain, pair.run_plain)]
        ours, plain = (statistics.median(s) for s in alternately(both, given.repeats))
        line = f"{tokens:5} tokens: forward + backward ours {ours * 1e3:.1f} ms, plain {plain * 1e3:.1f} ms, ratio {ours / plain:.3f}"
        print(f"{line} (equal to {worst:.0e})", flush=True)
        ours, plain = (statistics.median(s) for s in alternately(steps(pair), given.repeats))
        print(f"{'':13} whole step       ours {ours * 1e3:.1f} ms, plain {plain * 1e3:.1f} ms, ratio {ours / plain:.3f}", flush=True)


if __name__ == "__main__":
    main()
