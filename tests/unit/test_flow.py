"""Rectified flow: the published numbers, and the mistakes that the published training code made."""

import pytest
import torch

from mugv.flow.masks import sample_noised
from mugv.flow.path import add_noise, flow_loss, sample_timesteps, shift_ratio, shift_timestep
from mugv.flow.sampler import guide, sample_euler, timetable


def test_time_shift_is_the_published_one_at_720p():
    ratio = shift_ratio(720, 1280, 14)
    assert ratio == pytest.approx(7.0156, abs=1e-4)
    assert float(shift_timestep(torch.tensor(0.04), ratio)) == pytest.approx(226.2, abs=0.1)


def test_last_sampler_step_ends_at_zero():
    times = timetable(25, 7.0156)
    assert times[0] == pytest.approx(1000)
    assert times[-1] == 0
    assert times[24] == pytest.approx(226.2, abs=0.1)


def test_timesteps_differ_between_steps_and_ranks():
    from mugv.training.flow_data import generator_for

    draws = [sample_timesteps(8, 1.0, generator_for(0, step, rank)) for step in range(3) for rank in range(3)]
    for i, a in enumerate(draws):
        assert all(not torch.equal(a, b) for b in draws[i + 1 :])


def test_timesteps_follow_the_logit_normal():
    t = sample_timesteps(20000, 1.0, torch.Generator().manual_seed(0)) / 1000
    assert float(t.median()) == pytest.approx(0.5, abs=0.01)
    assert float((t < 0.2689).float().mean()) == pytest.approx(0.1587, abs=0.01)


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


def test_euler_follows_a_straight_path_exactly():
    data, noise = torch.randn(1, 2, 2, 2, 2), torch.randn(1, 2, 2, 2, 2)
    out = sample_euler(lambda x, t: (data - noise, None), noise, 7, 1.0, 3.0)
    assert torch.allclose(out, data, atol=1e-5)


def test_sampler_keeps_given_frames():
    given = torch.randn(1, 2, 3, 2, 2)
    noised = torch.tensor([[False, True, True]])
    out = sample_euler(lambda x, t: (torch.ones_like(x), None), torch.randn(1, 2, 3, 2, 2), 4, 1.0, 1.0, given, noised)
    assert torch.equal(out[:, :, 0], given[:, :, 0])
    assert not torch.equal(out[:, :, 1], given[:, :, 1])


def test_guidance_extrapolates_from_the_unconditional():
    assert torch.equal(guide(torch.tensor(2.0), torch.tensor(1.0), 4.0), torch.tensor(5.0))
    assert torch.equal(guide(torch.tensor(2.0), None, 4.0), torch.tensor(2.0))


def test_frame_masks_come_at_the_asked_rate_and_never_cover_a_clip():
    noised = sample_noised(4000, 3, {"image_head": 0.25, "image_tail": 0.05}, torch.Generator().manual_seed(1))
    head = (~noised[:, 0] & noised[:, 2]).float().mean()
    tail = (noised[:, 0] & ~noised[:, 2]).float().mean()
    assert float(head) == pytest.approx(0.25, abs=0.03)
    assert float(tail) == pytest.approx(0.05, abs=0.02)
    everything = sample_noised(500, 2, {"random": 1.0}, torch.Generator().manual_seed(2))
    assert bool(everything.any(1).all())
    assert bool(sample_noised(10, 1, {"image_head": 1.0}, torch.Generator().manual_seed(3)).all())
