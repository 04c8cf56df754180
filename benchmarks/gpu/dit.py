"""DiT blocks at full width on one GPU: step time, MFU, attention and matrix products apart, memory against the model.

    python -m benchmarks.gpu.dit                                   3456 wide, 50,402 tokens, bf16, as many blocks as fit
    python -m benchmarks.gpu.dit --output docs/gpu.md              the table also into a file
    python -m benchmarks.gpu.dit --device cpu --hidden 144 --heads 2 --layers 2 --latent 3 8 8      the same code, small, on CPU

Forward and backward of the blocks alone, without optimizer. MFU earns no credit for recompute; it is a share of the
card's dense bf16 peak (PEAKS). The ceiling is the fastest of a few large square matrix products measured in the same process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

warnings.filterwarnings("ignore", module="megatron")

from benchmarks.meter import peak, reset_peak, wait  # noqa: E402
from mugv.dit import attention  # noqa: E402
from mugv.dit.config import make_config  # noqa: E402
from mugv.dit.layers import Conditioning  # noqa: E402
from mugv.dit.model import MugDiT  # noqa: E402
from mugv.dit.sequence import TokenLayout  # noqa: E402
from mugv.recipe.models import DiTModel  # noqa: E402
from mugv.recipe.schema import Parallel  # noqa: E402
from mugv.training import process_groups  # noqa: E402
from mugv.training.flops import H100_PEAK, Clip, Flops, clip_flops  # noqa: E402
from mugv.training.memory import MicroBatch, Shapes, block_bytes, block_parameters, shared_bytes, transient_bytes  # noqa: E402

PEAKS = {"H200": H100_PEAK, "H100": H100_PEAK, "A100": 312e12}
"""Dense bf16 FLOP/s by a part of the card's name, SXM parts: the H200 has the H100's arithmetic."""
KEPT_FREE = 2e9
"""Bytes of the GPU that the number of blocks leaves for workspaces and fragmentation."""


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    device: str
    model: DiTModel
    latent: tuple[int, int, int]
    text: int
    layout: Parallel
    repeats: int

    @property
    def clip(self) -> Clip:
        frames, rows, columns = self.latent
        return Clip(frames * (rows // 2) * (columns // 2) + 2, self.text)

    @property
    def tokens(self) -> TokenLayout:
        frames, rows, columns = self.latent
        return TokenLayout(((frames, rows // 2, columns // 2),))

    @property
    def shapes(self) -> Shapes:
        return Shapes(self.model, self.model.hidden, self.layout, MicroBatch.batched(self.clip, 1), gpu=self.device == "cuda")

    def memory(self, blocks: int) -> int:
        """Predicted peak bytes: weights and gradients in bf16, the input, its gradient, what blocks keep, temporaries."""
        s = self.shapes
        parameters = 2 * blocks * block_parameters(self.model) * s.value
        kept = blocks * block_bytes(s, self.layout.recompute) + shared_bytes(s) + transient_bytes(s, self.layout.recompute)
        return parameters + kept + 2 * s.thin + s.text

    def flops(self, blocks: int) -> Flops:
        return clip_flops(self.model.model_copy(update={"layers": blocks}), self.model.hidden, self.clip)


def seconds(setting: Setting, run: Callable[[], object], repeats: int | None = None) -> float:
    """Median after two warm-up runs; the GPU is idle before and after each."""
    found = []
    for i in range(2 + (repeats or setting.repeats)):
        wait(setting.device)
        began = time.perf_counter()
        run()
        wait(setting.device)
        if i >= 2:
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def how_many_fit(setting: Setting) -> int:
    """Blocks whose predicted peak fits the free memory, at most the network's."""
    free = torch.cuda.mem_get_info()[0] - KEPT_FREE
    fits = [n for n in range(1, setting.model.layers + 1) if setting.memory(n) <= free]
    if not fits:
        raise SystemExit(f"one block needs {setting.memory(1) / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; use --recompute full")
    return fits[-1]


def make_step(setting: Setting, blocks: int) -> Callable[[], None]:
    """Forward and backward of `blocks` blocks; gradients are accumulated in place, as megatron's buffers do."""
    torch.manual_seed(0)
    process_groups.initialise(Parallel())
    config = make_config(setting.model.model_copy(update={"layers": blocks + 2}), setting.model.hidden, 1, setting.layout)
    part = MugDiT(config, range(1, blocks + 1)).to(device=setting.device, dtype=config.params_dtype).train()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
        parameter.grad = torch.zeros_like(parameter)
    draw = {"dtype": config.params_dtype, "device": setting.device}
    width, tokens = setting.model.hidden, setting.clip.tokens
    x = torch.randn(tokens, 1, width, **draw).requires_grad_()
    kind = torch.ones(tokens, 1, dtype=torch.int64, device=setting.device)
    kind[[0, -1]] = 0
    condition = Conditioning(
        vectors_BK6D=torch.randn(1, 2, 6, width, **draw),
        text_LBD=torch.randn(setting.text, 1, width, **draw),
        kind_SB=kind,
        layout=setting.tokens,
        text_spans=setting.tokens.text_spans((setting.text,)),
        text_mask_BL=None,
        back_end=attention.choose(setting.layout.attention, setting.device, packed=True),
    )

    def step() -> None:
        x.grad, out = None, x
        for layer in part.layers.values():
            out = part._run(layer, out, condition)
        out.backward(torch.ones_like(out))

    return step


def attention_seconds(setting: Setting) -> float:
    """Forward and backward of one block's two attentions, with the back end that the blocks use."""
    heads, d, tokens = setting.model.heads, setting.model.head_dim, setting.clip.tokens
    back_end = attention.choose(setting.layout.attention, setting.device, packed=True)
    pairs = [(tokens, setting.tokens.self_spans(whole=True)), (setting.text, setting.tokens.text_spans((setting.text,)))]
    total = 0.0
    for keys, spans in pairs:
        q, k, v = (_random(setting, length, 1, heads, d) for length in (tokens, keys, keys))
        total += seconds(setting, _backward_of(lambda q=q, k=k, v=v, s=spans: attention.attend(q, k, v, s, back_end)))  # type: ignore[misc]
    return total


def linear_seconds(setting: Setting) -> float:
    """Forward and backward of one block's linears, each alone, without biases."""
    h, r, tokens, text = setting.model.hidden, setting.model.mlp_ratio, setting.clip.tokens, setting.text
    shapes = [(tokens, h, 3 * h), (tokens, h, h), (tokens, h, h), (text, h, 2 * h), (tokens, h, h), (tokens, h, r * h), (tokens, r * h, h)]
    total = 0.0
    for rows, inputs, outputs in shapes:
        x, weight = _random(setting, rows, inputs), _random(setting, outputs, inputs)
        total += seconds(setting, _backward_of(lambda x=x, w=weight: F.linear(x, w)))  # type: ignore[misc]
    return total


def ceiling(setting: Setting) -> float:
    """FLOP/s of the fastest of a few square matrix products."""
    best = 0.0
    for n in (4096, 8192, 12288) if setting.device == "cuda" else (512,):
        a, b = _random(setting, n, n).detach(), _random(setting, n, n).detach()
        best = max(best, 2.0 * n**3 / seconds(setting, lambda a=a, b=b: a @ b, 10))  # type: ignore[misc]
    return best


def _random(setting: Setting, *shape: int) -> Tensor:
    dtype = torch.bfloat16 if setting.layout.precision == "bf16" else torch.float32
    return torch.randn(*shape, dtype=dtype, device=setting.device).requires_grad_()


def _backward_of(forward: Callable[[], Tensor]) -> Callable[[], None]:
    gradient = torch.ones_like(forward())
    return lambda: forward().backward(gradient)


def measure(setting: Setting, blocks: int) -> dict[str, float]:
    """Step time with its parts, FLOP/s, memory. Keys carry the unit; without a GPU there is no measured peak."""
    flops = setting.flops(blocks)
    top, attended, multiplied = ceiling(setting), attention_seconds(setting), linear_seconds(setting)
    step, before = make_ready(setting, blocks)
    elapsed = seconds(setting, step)
    model, linears = 3 * flops.blocks / elapsed, 3 * (flops.blocks - flops.attention) / blocks
    found = {
        "blocks": blocks,
        "tokens": setting.clip.tokens,
        "step s": elapsed,
        "block ms": elapsed / blocks * 1e3,
        "TFLOP/s": model / 1e12,
        "MFU %": 100 * model / card_peak(setting.device)[1],
        "matmul ceiling TFLOP/s": top / 1e12,
        "share of ceiling %": 100 * model / top,
        "attention ms": attended * 1e3,
        "attention TFLOP/s": 3 * flops.attention / blocks / attended / 1e12,
        "linears ms": multiplied * 1e3,
        "linears TFLOP/s": linears / multiplied / 1e12,
        "rest ms": (elapsed / blocks - attended - multiplied) * 1e3,
    }
    return found | measure_memory(setting, blocks, step, before)


def make_ready(setting: Setting, blocks: int) -> tuple[Callable[[], None], int]:
    """A step, run once, and the bytes in use before it was made."""
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.empty_cache()
    before = reset_peak(setting.device)
    step = make_step(setting, blocks)
    step()
    return step, before


def measure_memory(setting: Setting, blocks: int, step: Callable[[], None], before: int) -> dict[str, float]:
    """Peak of one more step above `before`, predicted and measured. Without a GPU what is measured is the resident set, with all of torch's
    own in it: that says nothing about the prediction."""
    reset_peak(setting.device)
    step()
    wait(setting.device)
    measured, predicted = max(1, peak(setting.device) - before), setting.memory(blocks)
    return {"predicted GB": predicted / 1e9, "measured GB": measured / 1e9, "prediction off %": 100 * (predicted / measured - 1)}


def card_peak(device: str) -> tuple[str, float]:
    """(whose, dense bf16 FLOP/s) that MFU is a share of: the card's own where it is known, else an H100's, and the name says so."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return next(((card, flops) for card, flops in PEAKS.items() if card in name), (f"H100, in place of {name}", H100_PEAK))


def table(setting: Setting, found: dict[str, float]) -> str:
    """Markdown of a measurement."""
    whose, flops = card_peak(setting.device)
    back_end = attention.choose(setting.layout.attention, setting.device, packed=True)
    given = [
        ("torch, attention", f"{torch.__version__}, {back_end}"),
        ("width, text tokens, recompute", f"{setting.model.hidden}, {setting.text}, {setting.layout.recompute}"),
        ("peak that MFU is a share of", f"{flops / 1e12:g} TFLOP/s dense bf16 ({whose})"),
    ]
    rows = [*given, *((name, f"{value:.4g}" if isinstance(value, float) else f"{value:,}") for name, value in found.items())]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--hidden", type=int, default=3456)
    parser.add_argument("--heads", type=int, default=48)
    parser.add_argument("--layers", type=int, default=0, help="blocks; 0: as many as fit")
    parser.add_argument("--latent", type=int, nargs=3, default=(14, 90, 160), metavar=("FRAMES", "ROWS", "COLUMNS"))
    parser.add_argument("--text", type=int, default=300)
    parser.add_argument("--recompute", choices=("none", "selective", "full"), default="none")
    parser.add_argument("--attention", choices=("auto", "sdpa", "varlen", "flash", "te"), default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="markdown file")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: benchmarks.gpu.dit needs a CUDA device; for a small run without one give --device cpu with small sizes")
    layout = Parallel(precision="bf16", recompute=given.recompute, attention=given.attention)
    model = DiTModel(hidden=given.hidden, heads=given.heads)
    setting = Setting(given.device, model, tuple(given.latent), given.text, layout, given.repeats)
    if given.device == "cpu" and not given.layers:
        raise SystemExit("error: --device cpu needs --layers")
    text = table(setting, measure(setting, given.layers or how_many_fit(setting)))
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
