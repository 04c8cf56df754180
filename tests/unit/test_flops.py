"""The FLOP counter: the published figure, torch's own counter on a real network, packed steps, utilisation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel
from mugv.training.engine import build_model
from mugv.training.flops import Clip, Flops, clip_flops, dit_parameters, forward_flops, step_flops, tokens, utilisation

SMALL = DiTModel(layers=2, hidden=48, heads=4, latent_channels=4)
TEXT = 16
GRID = (3, 4, 6)
"""Latent frames, rows, columns of the clips that are counted: 3 x 2 x 3 patches and two tokens."""


def published(model: DiTModel, s: int, k: int, c: int = 300) -> float:
    """Facts 7.5: k B s L h^2 [(1 + g + s/h) + (1 + (c/s) g + c/h) + ffn/h] with g = 1 and one clip."""
    h = model.hidden
    return k * s * model.layers * h * h * ((2 + s / h) + (1 + c / s + c / h) + model.mlp_ratio)


def test_appendix_b13_a_720p_clip_of_14_latents_trains_in_8_77_petaflop() -> None:
    model = DiTModel()
    assert published(model, 50_400, 12) / 1e15 == pytest.approx(8.77, abs=0.005)
    assert tokens(model, (720, 1280), 105) == 50_402
    ours = clip_flops(model, 4096, Clip(50_402, 300))
    assert ours.training / 1e15 == pytest.approx(8.77, abs=0.005)
    assert ours.self_attention / ours.forward == pytest.approx(0.67, abs=0.005)


def test_appendix_b13_ours_differs_from_the_published_formula_by_the_ends_alone() -> None:
    """The formula leaves out embedders and head (under 0.1 %); over the same 50,400 tokens the blocks agree to rounding."""
    model = DiTModel()
    ours = clip_flops(model, 4096, Clip(50_400, 300))
    assert 3 * ours.blocks == pytest.approx(published(model, 50_400, 12), rel=1e-12)
    assert 0 < ours.ends / ours.forward < 1e-3
    assert ours.hardware("full") == pytest.approx(published(model, 50_400, 16), rel=1e-3), "k = 16 is hardware, not model, FLOPs"


@pytest.mark.parametrize(("frames", "petaflop"), [(73, 5.06), (105, 8.77)])
def test_published_costs_of_other_lengths(frames: int, petaflop: float) -> None:
    model = DiTModel()
    assert 3 * forward_flops(model, 4096, tokens(model, (720, 1280), frames), 300) / 1e15 == pytest.approx(petaflop, abs=0.005)


def counted(clips: int, words: int, recompute: str = "none", backward: bool = True) -> float:
    """Matrix products that torch sees in one pass of the real network, attention spelled out as matrix products."""
    net = build_model(SMALL, TEXT, 1, Parallel(recompute=recompute), 0).train()
    t, h, w = GRID
    latent, text = torch.randn(clips, 4, t, h, w), torch.randn(clips, words, TEXT)
    inputs = (latent, torch.full((clips,), 500.0), text, torch.ones(clips, words, dtype=torch.bool), torch.full((clips,), 24.0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        out = net(*inputs, torch.ones(clips, t, dtype=torch.bool))
        if backward:
            out.square().mean().backward()
    return counter.get_total_flops()


def expected(clips: int, words: int) -> Flops:
    t, h, w = GRID
    return step_flops(SMALL, TEXT, [Clip(t * h * w // 4 + 2, words)] * clips)


@pytest.mark.parametrize(("clips", "words"), [(1, 5), (2, 7)])
def test_forward_is_what_torch_counts(clips: int, words: int) -> None:
    assert counted(clips, words, backward=False) == expected(clips, words).forward


def leaves(clips: int, words: int) -> float:
    """Backward products that three forwards count and nobody needs: gradients of latents, text and sinusoids."""
    h, patches = SMALL.hidden, expected_tokens() - 2
    return 2.0 * clips * (patches * 16 * h + words * TEXT * h + 3 * 256 * h)


def condition_sums(clips: int) -> float:
    """The gradients of shift, scale and gate are summed over tokens by a small product: six a layer, two in the head; two conditions."""
    return (SMALL.layers * 6 + 2) * 2.0 * clips * expected_tokens() * 2 * SMALL.hidden


def expected_tokens() -> int:
    t, h, w = GRID
    return t * h * w // 4 + 2


@pytest.mark.parametrize(("clips", "words"), [(1, 5), (2, 7)])
def test_training_is_what_torch_counts_but_for_named_terms(clips: int, words: int) -> None:
    ours = expected(clips, words).training - leaves(clips, words) + condition_sums(clips)
    assert counted(clips, words) == ours


def test_full_recompute_costs_one_more_forward_of_the_blocks() -> None:
    extra = counted(1, 5, "full") - counted(1, 5)
    flops = expected(1, 5)
    assert extra == flops.blocks == flops.hardware("full") - flops.training


def test_padded_text_earns_no_credit() -> None:
    model = DiTModel()
    short, long = (clip_flops(model, 4096, Clip(50_402, words)) for words in (20, 300))
    assert short.self_attention == long.self_attention
    assert long.cross_attention == 15 * short.cross_attention


def test_packed_clips_do_not_pay_for_attention_to_each_other() -> None:
    clips = [Clip(1000, 30), Clip(400, 7)]
    packed = step_flops(SMALL, TEXT, clips)
    assert packed == clip_flops(SMALL, TEXT, clips[0]) + clip_flops(SMALL, TEXT, clips[1])
    assert packed.self_attention < clip_flops(SMALL, TEXT, Clip(1400, 37)).self_attention


def test_recompute_earns_hfu_and_no_mfu() -> None:
    step = clip_flops(DiTModel(), 4096, Clip(50_402, 300))
    plain, full = (utilisation(step, 100.0, 1, mode) for mode in ("none", "full"))
    assert plain.mfu == plain.hfu == full.mfu == pytest.approx(8.77e15 / 989e14, rel=1e-3)
    assert full.hfu / full.mfu == pytest.approx(4 / 3, rel=1e-3)
    assert utilisation(step, 100.0, 2).mfu == plain.mfu / 2


def test_parts_add_up() -> None:
    parts = Flops(1, 2, 3, 4, 5, 6)
    assert (parts.forward, parts.blocks, parts.attention, parts.training) == (21, 15, 6, 63)
    assert replace(parts, ends=0).hardware("full") == 4 * 15
    assert dit_parameters(SMALL, TEXT) == sum(p.numel() for p in build_model(SMALL, TEXT, 1, Parallel(), 0).parameters())
