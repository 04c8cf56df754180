"""MUG-DiT: counts, conditioning, RoPE, and megatron's pin."""

import importlib.metadata

import pytest
import torch
from plain_rope import rotate

from mugv.dit.megatron_cpu import MEGATRON_VERSION
from mugv.dit.rope import rope_table
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel
from mugv.training import process_groups
from mugv.training.engine import build_model
from mugv.training.flops import dit_parameters, forward_flops, tokens

TINY = DiTModel(layers=2, hidden=48, heads=4, latent_channels=4)


@pytest.fixture(scope="module")
def model():
    return build_model(TINY, 16, 1, Parallel(), 0).eval()


def inputs(batch=2, frames=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    latent = torch.randn(batch, 4, frames, 4, 4, generator=g)
    text = torch.randn(batch, 5, 16, generator=g)
    return latent, torch.tensor([700.0, 300.0]), text, torch.ones(batch, 5, dtype=torch.bool), torch.full((batch,), 12.0)


def noised(batch=2, frames=3):
    return torch.ones(batch, frames, dtype=torch.bool)


def test_megatron_is_the_pinned_version():
    assert importlib.metadata.version("megatron-core") == MEGATRON_VERSION


PUBLISHED = {(288, 4): 76_834_272, (1152, 16): 1_208_059_968, (1728, 24): 2_712_853_632, (2304, 32): 4_818_161_856}
PUBLISHED |= {(3456, 48): 10_830_321_984, (4608, 64): 19_244_540_352}


@pytest.mark.parametrize("size", PUBLISHED)
def test_appendix_b1_every_published_size_has_the_published_parameter_count(size):
    """Counted from the network itself, built without memory (facts 4.1)."""
    from mugv.dit.config import make_config
    from mugv.dit.model import MugDiT

    process_groups.initialise(Parallel())
    hidden, heads = size
    with torch.device("meta"):
        net = MugDiT(make_config(DiTModel(hidden=hidden, heads=heads), 4096, 1, Parallel()))
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED[size]
    assert dit_parameters(DiTModel(hidden=hidden, heads=heads), 4096) == PUBLISHED[size]


def test_counter_counts_what_is_built(model):
    assert sum(p.numel() for p in model.parameters()) == dit_parameters(TINY, 16)


def test_training_flops_of_a_720p_clip_are_8_77_petaflop():
    sequence = tokens(DiTModel(), (720, 1280), 105)
    assert sequence == 50_402
    assert 3 * forward_flops(DiTModel(), 4096, sequence, 300) / 1e15 == pytest.approx(8.77, abs=0.005)


def test_padding_of_text_changes_nothing(model):
    latent, t, text, mask, fps = inputs()
    padded = torch.cat([text, torch.full((2, 3, 16), 9.0)], 1)
    longer = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
    with torch.no_grad():
        assert torch.allclose(model(latent, t, text, mask, fps, noised()), model(latent, t, padded, longer, fps, noised()), atol=1e-5)


def test_a_clip_does_not_see_its_neighbours(model):
    latent, t, text, mask, fps = inputs()
    with torch.no_grad():
        both = model(latent, t, text, mask, fps, noised())
        alone = model(latent[:1], t[:1], text[:1], mask[:1], fps[:1], noised(1))
    assert torch.allclose(both[:1], alone, atol=1e-5)


def test_appendix_b7_timestep_does_not_modulate_given_frames(model):
    """With attention cut off by zero output projections, given frames must not depend on t; noised ones must."""
    from mugv.training.masters import frozen_copy

    cut = frozen_copy(model)
    for layer in cut.layers.values():
        for linear in (layer.self_attention.linear_proj, layer.cross_attention.linear_proj):
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    latent, t, text, mask, fps = inputs()
    given = noised()
    given[:, 0] = False
    with torch.no_grad():
        a, b = (cut(latent, t + shift, text, mask, fps, given) for shift in (0.0, 100.0))
    assert torch.equal(a[:, :, 0], b[:, :, 0])
    assert not torch.allclose(a[:, :, 1:], b[:, :, 1:])


def test_bfloat16_never_rounds_the_timestep(model):
    from mugv.dit.embeddings import sinusoid

    assert not torch.equal(sinusoid(torch.tensor([801.0]), 256), sinusoid(torch.tensor([802.0]), 256))


def test_rope_scores_depend_on_distance_alone():
    table = rope_table(4, 5, 6, 24)
    x = torch.randn(1, 1, 1, 24).expand(table.shape[1], 1, 1, 24)
    q = rotate(x, table)[:, 0, 0]

    def index(t, y, x_):
        return 1 + (t * 5 + y) * 6 + x_

    score = q @ q.T
    assert float(score[index(0, 1, 1), index(2, 3, 4)]) == pytest.approx(float(score[index(1, 0, 0), index(3, 2, 3)]), abs=1e-4)
    assert float(score[index(0, 1, 1), index(2, 3, 4)]) != pytest.approx(float(score[index(0, 1, 1), index(2, 4, 3)]), abs=1e-4)


def test_rope_start_and_end_tokens_have_the_published_positions():
    table = rope_table(2, 3, 4, 12)
    assert torch.equal(table[0, 0], torch.ones(6))
    axis_time = torch.acos(table[0, -1, 4].clamp(-1, 1))
    assert float(axis_time) == pytest.approx(3.0, abs=1e-4)


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recompute_gives_the_same_gradients(recompute):
    grads = []
    for parallel in (Parallel(), Parallel(recompute=recompute)):
        net = build_model(TINY, 16, 1, parallel, 0).train()
        net(*inputs(), noised()).square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_the_pipeline_layout_that_megatron_computes_wrongly_is_refused():
    """facts/megatron.md 2.3 item 8: interleaved without overlapped point-to-point communication gave another loss, silently."""
    import dataclasses

    from mugv.dit.config import make_config

    config = make_config(TINY, 16, 1, Parallel(world=2, pipeline=2, virtual_pipeline=2))
    assert config.overlap_p2p_comm
    with pytest.raises(ValueError, match="overlap_p2p_comm"):
        dataclasses.replace(config, overlap_p2p_comm=False)


def test_packed_clips_of_different_sizes_get_what_each_gets_alone(model):
    """Sizes, timesteps, frame rates, texts and given frames differ from clip to clip of one packed sequence."""
    g = torch.Generator().manual_seed(1)
    latents = [torch.randn(4, *shape, generator=g) for shape in ((3, 4, 4), (1, 6, 4), (2, 4, 8))]
    t, fps = torch.tensor([700.0, 20.0, 990.0]), torch.tensor([12.0, 24.0, 8.0])
    text, mask = torch.randn(3, 5, 16, generator=g), torch.arange(5)[None] < torch.tensor([[5], [2], [4]])
    given = [torch.tensor([False, True, True]), torch.tensor([True]), torch.tensor([True, False])]
    with torch.no_grad():
        together = model(latents, t, text, mask, fps, given)
        for i, latent in enumerate(latents):
            alone = model(latent[None], t[i : i + 1], text[i : i + 1], mask[i : i + 1], fps[i : i + 1], given[i][None])
            assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_projected_text_gives_what_raw_text_gives(model):
    latent, t, text, mask, fps = inputs()
    with torch.no_grad():
        raw = model(latent, t, text, mask, fps, noised())
        assert torch.equal(raw, model(latent, t, model.embed_text(text), mask, fps, noised(), projected=True))


def test_modulation_never_holds_six_vectors_a_token(model):
    """Facts 10.3, T18: nothing kept for backward is as large as [tokens, 6, width]."""
    sizes: list[int] = []
    net = build_model(TINY, 16, 1, Parallel(), 0).train()
    latent, t, text, mask, fps = inputs(frames=9)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        net(latent, t, text, mask, fps, noised(frames=9))
    tokens_of_both = 2 * (9 * 4 + 2)
    assert max(sizes) <= tokens_of_both * 4 * 48
    assert sum(size == tokens_of_both * 48 for size in sizes) > 0


def test_bfloat16_network_stays_near_the_fp32_one(model):
    half = build_model(TINY, 16, 1, Parallel(precision="bf16"), 0).eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    args = (*inputs(), noised())
    with torch.no_grad():
        exact, rounded = model(*args), half(*args)
    assert rounded.dtype == torch.float32
    assert float((exact - rounded).norm() / exact.norm()) < 0.02
