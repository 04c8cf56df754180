"""Attention back ends on a GPU against SDPA: one clip and several packed ones, forward and backward, self and cross."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mugv.dit import attention
from mugv.dit.sequence import TokenLayout
from mugv.errors import MissingFeatureError

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

HEADS, WIDTH = 4, 72


def outputs(back_end: str, grids: tuple[tuple[int, int, int], ...], texts: tuple[int, ...] | None) -> list[Tensor]:
    """Result and gradients of q, k, v in bf16."""
    layout = TokenLayout(grids)
    g = torch.Generator("cuda").manual_seed(0)
    rows = (layout.length, sum(texts) if texts else layout.length)
    q, k, v = (
        torch.randn(n, 1, HEADS, WIDTH, generator=g, device="cuda", dtype=torch.bfloat16).requires_grad_()
        for n in (rows[0], rows[1], rows[1])
    )
    spans = layout.text_spans(texts) if texts else layout.self_spans(whole=True)
    out = attention.attend(q, k, v, spans, back_end)
    out.backward(torch.randn(out.shape, generator=g, device="cuda", dtype=torch.bfloat16))
    return [out, q.grad, k.grad, v.grad]


@pytest.mark.parametrize("texts", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("packed", [False, True], ids=["one clip", "packed"])
@pytest.mark.parametrize("back_end", ["varlen", "flash", "te"])
def test_back_end_gives_sdpa_s_numbers(back_end: str, packed: bool, texts: bool) -> None:
    try:
        attention.varlen_function(back_end)
    except (MissingFeatureError, ImportError) as error:
        pytest.skip(str(error))
    grids = ((3, 8, 8), (1, 4, 6), (2, 5, 5)) if packed else ((3, 8, 8),)
    lengths = (9, 30, 1)[: len(grids)] if texts else None
    for ours, reference in zip(outputs(back_end, grids, lengths), outputs("sdpa", grids, lengths), strict=True):
        assert float((ours - reference).float().norm() / reference.float().norm()) <= 2e-2


@pytest.mark.parametrize("packed", [False, True])
def test_auto_chooses_something_that_runs(packed: bool) -> None:
    chosen = attention.choose("auto", "cuda", packed)
    assert all(t.isfinite().all() for t in outputs(chosen, ((3, 8, 8),), None))
