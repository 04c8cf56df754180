"""Rectified flow in training: the published numbers, and the mistakes that the published training code made."""

import math

import numpy as np
import pytest
import torch

from mugv.dataset.latentset import LatentNorm, LatentRow, LatentSet, write_latent_set
from mugv.flow.masks import KINDS, sample_noised
from mugv.flow.path import add_noise, flow_loss, sample_timesteps, shift_ratio, shift_timestep
from mugv.recipe.schema import Flow, FrameMask
from mugv.training.flow_data import FlowData, generator_for


def test_appendix_b6_time_shift_is_the_published_one_at_720p():
    ratio = shift_ratio(720, 1280, 14)
    assert ratio == pytest.approx(7.0156, abs=1e-4)
    assert float(shift_timestep(torch.tensor(0.04), ratio)) == pytest.approx(226.2, abs=0.1)


@pytest.mark.parametrize(("height", "width", "frames", "ratio"), [(512, 512, 1, 1.0), (360, 640, 14, 3.508), (720, 1280, 10, 5.929)])
def test_time_shift_takes_pixels_and_latent_frames(height, width, frames, ratio):
    assert shift_ratio(height, width, frames) == pytest.approx(ratio, abs=1e-3)


def test_appendix_b11_timesteps_and_noise_differ_between_ranks_steps_and_epochs():
    def draw(step, rank):
        generator = generator_for(6309, step, rank)
        return sample_timesteps(4, 7.0156, generator), torch.randn(4, 2, 2, 2, 2, generator=generator)

    # 32 ranks with batches of 4 in a set of 512 clips: steps 0, 4 and 8 show a rank its clips of three epochs.
    draws = [draw(step, rank) for step in (0, 1, 4, 8) for rank in range(32)]
    assert len({tuple(t.tolist()) for t, _ in draws}) == len(draws)
    assert len({tuple(n.flatten().tolist()) for _, n in draws}) == len(draws)
    assert all(torch.equal(a, b) for a, b in zip(draw(3, 5), draw(3, 5), strict=True)), "a resumed step must repeat its draws"


def test_t7_timesteps_of_a_batch_cover_all_noise_levels():
    for seed in range(20):
        t = sample_timesteps(8, 1.0, generator_for(0, seed, 0)) / 1000
        slices = (8 * torch.special.ndtr(torch.logit(t.double()))).floor()
        assert sorted(slices.tolist()) == list(range(8))


def test_timesteps_stay_fp32():
    """In bfloat16 timesteps above 512 would be multiples of 4 (defect I6 of the release)."""
    t = sample_timesteps(64, 7.0156, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float32
    assert not torch.equal(t, t.bfloat16().float())


def test_timesteps_follow_the_logit_normal():
    t = sample_timesteps(20000, 1.0, torch.Generator().manual_seed(0)) / 1000
    assert float(t.median()) == pytest.approx(0.5, abs=0.01)
    assert float((t < 0.2689).float().mean()) == pytest.approx(0.1587, abs=0.01)


@pytest.mark.parametrize("stratified", [True, False])
def test_uniform_timesteps_are_uniform_before_the_shift(stratified):
    t = sample_timesteps(20000, 3.0, torch.Generator().manual_seed(0), "uniform", stratified) / 1000
    before = t / (3 - 2 * t)
    for share in (0.1, 0.5, 0.9):
        assert float((before < share).float().mean()) == pytest.approx(share, abs=0.01)


def test_given_frames_stay_clean_and_out_of_the_loss():
    data, noise = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    noised = torch.tensor([[False, True, True], [True, True, True]])
    x = add_noise(data, noise, torch.tensor([700.0, 300.0]), noised)
    assert torch.equal(x[0, :, 0], data[0, :, 0])
    assert not torch.allclose(x[1, :, 0], data[1, :, 0])
    wrong = (data - noise).clone()
    wrong[0, :, 0] += 100
    assert torch.equal(flow_loss(wrong, data, noise, noised), torch.zeros(2))
    assert float(flow_loss(wrong + 1, data, noise, noised)[1]) == pytest.approx(1.0)


def test_frame_masks_come_at_the_asked_rate_and_never_cover_a_clip():
    noised = sample_noised(4000, 3, {"image_head": 0.25, "image_tail": 0.05}, torch.Generator().manual_seed(1))
    head = (~noised[:, 0] & noised[:, 2]).float().mean()
    tail = (noised[:, 0] & ~noised[:, 2]).float().mean()
    assert float(head) == pytest.approx(0.25, abs=0.03)
    assert float(tail) == pytest.approx(0.05, abs=0.02)
    for kind in KINDS:
        for frames in (2, 3, 4):
            assert bool(sample_noised(500, frames, {kind: 1.0}, torch.Generator().manual_seed(2)).any(1).all()), kind
        assert bool(sample_noised(10, 1, {kind: 1.0}, torch.Generator().manual_seed(3)).all()), "a still is never given away"


def patterns(kind, frames=8):
    """The different sets of given frames of a kind, as text: g given, . noised."""
    noised = sample_noised(3000, frames, {kind: 1.0}, torch.Generator().manual_seed(4))
    return {"".join("." if x else "g" for x in row) for row in noised.tolist()}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("image_head", {"g......."}),
        ("image_tail", {".......g"}),
        ("image_head_tail", {"g......g"}),
        ("image_random", {"." * k + "g" + "." * (7 - k) for k in range(8)}),
        ("interpolate", {"g.g.g.g.", ".g.g.g.g"}),
        ("quarter_head", {"g.......", "gg......"}),
        ("quarter_tail", {".......g", "......gg"}),
        ("quarter_head_tail", {"g......g", "gg....gg"}),
        ("quarter_random", {"." * k + "g" * n + "." * (8 - n - k) for n in (1, 2) for k in range(9 - n)}),
    ],
)
def test_each_kind_gives_the_frames_that_its_name_says(kind, expected):
    assert patterns(kind) == expected


def test_random_masks_give_from_a_tenth_to_nine_tenths_of_the_frames():
    given = (~sample_noised(20000, 40, {"random": 1.0}, torch.Generator().manual_seed(5))).float().mean(1)
    assert float(given.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(given.std()) == pytest.approx(math.sqrt(0.8**2 / 12 + (0.25 - 0.8**2 / 12) / 40), abs=0.01)


def test_kinds_without_drawn_sizes_leave_the_later_draws_alone():
    """Runs with first-frame masks alone repeat the noise of earlier releases."""
    generator = torch.Generator().manual_seed(6)
    sample_noised(4, 3, {"image_head": 0.25}, generator)
    after = torch.rand(1, generator=generator)
    expected = torch.Generator().manual_seed(6)
    torch.rand(4, generator=expected)
    torch.rand(4, 3, generator=expected)
    assert torch.equal(after, torch.rand(1, generator=expected))


def test_the_published_masks_have_one_word_and_sum_to_a_quarter():
    mask = FrameMask.model_validate("open-sora").model_dump()
    assert set(mask) == set(KINDS), "a kind that the sampler does not know would never come"
    assert sum(mask.values()) == pytest.approx(0.25)
    assert (mask["image_head"], mask["random"], mask["interpolate"], mask["image_random"]) == (0.22, 0.01, 0.002, 0.0)
    given = ~sample_noised(40000, 14, mask, torch.Generator().manual_seed(7)).all(1)
    assert float(given.float().mean()) == pytest.approx(0.25, abs=0.01)


def test_mask_probabilities_over_one_are_refused():
    with pytest.raises(ValueError, match=r"sum to at most 1, they sum to 1\.4"):
        FrameMask(image_head=0.7, random=0.7)
    with pytest.raises(ValueError, match="expected `open-sora` or probabilities by kind"):
        FrameMask.model_validate("opensora")


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    g = torch.Generator().manual_seed(0)
    rows = [LatentRow(f"c{i}", "train", f"caption {i}", 0.1, 8.0 + i, i) for i in range(8)]
    texts = [np.random.default_rng(i).standard_normal((3, 8)).astype(np.float32) for i in range(8)]
    data = {(64, 96): torch.randn(8, 4, 3, 8, 12, generator=g)}
    write_latent_set(folder, rows, data, texts, np.zeros((1, 8), np.float32), LatentNorm((0.0,) * 4, (1.0,) * 4), {})
    return LatentSet.open(folder)


def flow_data(latents, flow=None, mask=None):
    return FlowData(latents, latents.clips("train"), (64, 96), 17, flow or Flow(), mask or FrameMask())


def test_t2_the_shift_uses_the_true_number_of_latent_frames(latents):
    """The median of u is 1/2, so the median timestep is 1000 r / (1 + r): it tells which r was used."""
    data = flow_data(latents, Flow(shift_scale=5.0))
    for images, frames in ((False, 3), (True, 1)):
        t = torch.cat([data.batch(step, 8, 0, images=images).timestep for step in range(250)])
        ratio = shift_ratio(64, 96, frames, 5.0)
        assert float(t.median()) == pytest.approx(1000 * ratio / (1 + ratio), rel=0.02)


def test_t3_each_clip_keeps_its_own_speed(latents):
    batch = flow_data(latents).batch(0, 8, 0)
    assert sorted(batch.fps.tolist()) == [8.0 + i for i in range(8)]


def test_t12_captions_drop_whole_at_the_rate_of_each_clip_s_task(latents):
    data = flow_data(latents, mask=FrameMask(image_head=0.5))
    given, dropped = [], []
    for step in range(400):
        batch = data.batch(step, 8, 0)
        lengths = batch.text_mask.sum(1)
        assert set(lengths.tolist()) <= {1, 3}, "part of a caption was dropped"
        given.append(~batch.noised.all(1))
        dropped.append(lengths == 1)
    i2v, drop = torch.cat(given), torch.cat(dropped)
    assert float(drop[~i2v].float().mean()) == pytest.approx(0.1, abs=0.03)
    assert float(drop[i2v].float().mean()) == pytest.approx(0.5, abs=0.04)


def test_images_weigh_three_tenths_by_default():
    assert Flow().image_loss_weight == 0.3
