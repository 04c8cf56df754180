"""The block's fused operations against plain autograd, the token axis' arithmetic, and attention's back ends."""

import pytest
import torch
import torch.nn.functional as F
from plain_rope import rotate

from mugv.dit import attention
from mugv.dit.fused import gated_add, modulate, norm_rotate
from mugv.dit.rope import rope_table
from mugv.dit.sequence import Span, TokenLayout
from mugv.errors import MissingFeatureError

B, S, D = 2, 14, 12


def leaf(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def conditions(packed: bool):
    """(batch, conditions of a row, index of each token)."""
    batch, count = (1, 6) if packed else (B, 2)
    return batch, count, torch.randint(0, count, (S, batch), generator=torch.Generator().manual_seed(3))


def chosen(vectors_BKD, kind_SB):
    """Each token's vector, by plain indexing."""
    return vectors_BKD[torch.arange(kind_SB.shape[1])[None], kind_SB]


def assert_same(fused, plain, leaves):
    out = fused(*leaves)
    expected = plain(*leaves)
    assert torch.allclose(out, expected, atol=1e-5)
    weight = torch.randn_like(out)
    found = torch.autograd.grad((out * weight).sum(), leaves)
    for got, want in zip(found, torch.autograd.grad((expected * weight).sum(), leaves), strict=True):
        assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_modulated_norm_has_the_plain_gradients(packed):
    batch, count, kind = conditions(packed)
    leaves = [leaf(S, batch, D), leaf(batch, count, D, seed=1), leaf(batch, count, D, seed=2)]

    def plain(x, shift, scale):
        return F.layer_norm(x, (D,), eps=1e-6) * (1 + chosen(scale, kind)) + chosen(shift, kind)

    assert_same(lambda x, shift, scale: modulate(x, shift, scale, kind), plain, leaves)


@pytest.mark.parametrize("packed", [False, True])
def test_gated_residual_has_the_plain_gradients(packed):
    batch, count, kind = conditions(packed)
    leaves = [leaf(S, batch, D), leaf(S, batch, D, seed=1), leaf(batch, count, D, seed=2)]
    assert_same(lambda x, y, gate: gated_add(x, y, gate, kind), lambda x, y, gate: x + chosen(gate, kind) * y, leaves)


@pytest.mark.parametrize("turned", [False, True])
def test_norm_and_rotation_have_the_plain_gradients(turned):
    layout = TokenLayout(((3, 2, 2),))
    rotation = layout.rotation(D, "cpu") if turned else None
    leaves = [leaf(S, B, 3, D), leaf(D, seed=1)]

    def plain(x, weight):
        normed = F.rms_norm(x, (D,), weight, 1e-6)
        return rotate(normed, rope_table(3, 2, 2, D)) if turned else normed

    assert_same(lambda x, weight: norm_rotate(x, weight, rotation), plain, leaves)


@pytest.mark.parametrize("context", [1, 2, 3])
@pytest.mark.parametrize("sequence", [1, 2, 4])
def test_ranks_hold_every_token_once(context, sequence):
    grids = ((3, 2, 2), (1, 3, 3), (2, 1, 5))
    seen = []
    for c in range(context):
        for s in range(sequence):
            layout = TokenLayout(grids, (c, context), (s, sequence))
            low, high = layout.local
            tokens = sum(p.stop - p.start for clip in range(len(grids)) for p in layout.pieces(clip))
            assert tokens + layout.local_pad == high - low
            seen += list(range(low, high))
    assert seen == list(range(layout.padded))
    assert layout.padded - layout.length < context * sequence


@pytest.mark.parametrize("context", [1, 2, 3])
def test_every_query_meets_the_keys_of_its_own_clip_alone(context):
    grids, texts = ((3, 2, 2), (1, 3, 3), (2, 1, 5)), [(0, 4), (4, 5), (5, 12)]
    bounds = TokenLayout(grids).bounds
    own, text = {}, {}
    for rank in range(context):
        layout = TokenLayout(grids, (rank, context))
        for spans, met in ((layout.self_spans(whole=False), own), (layout.text_spans((4, 1, 7)), text)):
            for span in spans:
                for q in range(span.query_start, span.query_stop):
                    met[layout.chunk[0] + q] = (span.key_start, span.key_stop)
    assert own == {token: bound for bound in bounds for token in range(*bound)}
    assert text == {token: keys for bound, keys in zip(bounds, texts, strict=True) for token in range(*bound)}


def reference_varlen(q, k, v, cu_q, cu_k, max_q, max_k):
    """flash_attn_varlen_func's contract, clip by clip."""
    assert cu_q.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    out = []
    for i in range(len(cu_q) - 1):
        parts = (x[a:b].transpose(0, 1)[None] for x, (a, b) in zip((q, k, v), [cu_q[i : i + 2]] + [cu_k[i : i + 2]] * 2, strict=True))
        out.append(F.scaled_dot_product_attention(*parts)[0].transpose(0, 1))
    return torch.cat(out)


def test_variable_length_kernels_are_called_with_what_they_expect(monkeypatch):
    """The kernels need a GPU; what is handed to them does not: a rank's part of packed clips, whose last rows are padding."""
    monkeypatch.setattr(attention, "varlen_function", lambda back_end: reference_varlen)
    query, key, value = leaf(9, 1, 2, 6), leaf(20, 1, 2, 6, seed=1), leaf(20, 1, 2, 6, seed=2)
    spans = (Span(0, 3, 5, 11), Span(3, 8, 11, 16))
    expected = attention.attend(query, key, value, spans)
    assert torch.allclose(attention.attend(query, key, value, spans, "flash"), expected, atol=1e-6)
    assert float(expected[8].abs().max()) == 0


@pytest.mark.parametrize("back_end", ["varlen", "flash", "te"])
def test_gpu_back_ends_are_refused_on_cpu(back_end):
    with pytest.raises(MissingFeatureError, match=rf"parallel.attention = {back_end} needs a CUDA device"):
        attention.choose(back_end, "cpu", packed=True)


@pytest.mark.parametrize(("back_end", "package"), [("flash", "flash-attn"), ("te", "transformer-engine")])
def test_a_missing_package_is_named(back_end, package):
    with pytest.raises(MissingFeatureError, match=package):
        attention.varlen_function(back_end)


def test_the_log_says_which_back_end_runs(caplog):
    attention._announce.cache_clear()
    with caplog.at_level("INFO", logger="mugv.dit.attention"):
        attention.choose("auto", "cpu", packed=True)
    assert "attention back end: sdpa for packed clips on cpu" in caplog.text
