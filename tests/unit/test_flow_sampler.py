"""Samplers and guidance against values worked out by hand, and against an equation whose solution is known."""

import math
from itertools import pairwise

import pytest
import torch

from mugv.flow.guidance import guide, guides_at, rescale
from mugv.flow.path import shift_timestep
from mugv.flow.sampler import _Stepper, sample_flow, timetable
from mugv.recipe.schema import Sampler


def constant(value):
    return lambda x, t, guided: (value.expand_as(x).clone(), None)


def test_the_published_timetable_ends_with_a_step_from_226():
    times = timetable(25, 7.0156)
    assert len(times) == 26
    assert times[0] == pytest.approx(1000)
    assert times[24] == pytest.approx(226.2, abs=0.1)
    assert times[-1] == 0
    assert times[5] == pytest.approx(float(shift_timestep(torch.tensor(0.8), 7.0156)), abs=1e-3)


def test_no_timestep_is_above_1000():
    """Rounding once put the first one just above, out of the guidance interval."""
    assert all(timetable(4, 0.01 * k)[0] <= 1000 for k in range(1, 1000))


@pytest.mark.parametrize("method", ["euler", "ab2"])
def test_a_straight_path_is_followed_exactly(method):
    data, noise = torch.randn(1, 2, 2, 2, 2), torch.randn(1, 2, 2, 2, 2)
    out = sample_flow(constant(data - noise), noise, Sampler(steps=7, method=method), 3.0)
    assert torch.allclose(out, data, atol=1e-5)


def error(method, steps, ratio):
    """At the end of dx/ds = x cos(4 s), s = 1 - t / 1000, from x = 1: the solution is exp(sin(4) / 4)."""

    def velocity(x, t, guided):
        return x * math.cos(4 * (1 - t / 1000)), None

    end = sample_flow(velocity, torch.ones(1, 1, 1, 1, 1), Sampler(steps=steps, method=method), ratio)
    return abs(float(end) - math.exp(math.sin(4) / 4))


@pytest.mark.parametrize("ratio", [1.0, 3.0])
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("ab2", 2)])
def test_the_error_falls_with_the_order_of_the_method(method, order, ratio):
    """Halving the steps divides the error by 2 or by 4, with equal steps and with shifted ones."""
    errors = [error(method, steps, ratio) for steps in (40, 80, 160)]
    assert errors[2] > 1e-6, "too close to rounding to say anything"
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_the_second_order_sampler_needs_no_more_network_calls():
    for method in ("euler", "ab2"):
        calls = []
        sample_flow(lambda x, t, guided, calls=calls: (calls.append(t) or x, None), torch.ones(1, 1, 1, 1, 1), Sampler(method=method), 1.0)
        assert calls == timetable(25, 1.0)[:-1]


def test_second_order_steps_by_hand():
    """Steps of 0.5, 0.3, 0.2 with velocities 1, 2, 4: 0.5 + 0.3 (2 + 0.3 (2 - 1)) + 0.2 (4 + (4 - 2) / 3)."""
    values = iter([1.0, 2.0, 4.0])
    step = _Stepper(second_order=True)
    moved = sum(float(step(torch.tensor(next(values)), length, True)) for length in (0.5, 0.3, 0.2))
    assert moved == pytest.approx(0.5 + 0.3 * 2.3 + 0.2 * (4 + 2 / 3))


def test_second_order_starts_again_where_guidance_switches():
    """The velocity jumps there: extrapolating over the jump would overshoot."""

    def velocity(x, t, guided):
        return torch.ones_like(x), torch.zeros_like(x) if guided else None

    sampler = Sampler(steps=10, guidance=5.0, guidance_interval=(450, 1000), method="ab2")
    end = sample_flow(velocity, torch.zeros(1, 1, 1, 1, 1), sampler, 1.0)
    assert float(end) == pytest.approx(0.6 * 5 + 0.4 * 1, abs=1e-5)


def test_given_frames_are_kept_and_seen_clean_at_every_step():
    given, noised = torch.randn(1, 2, 3, 2, 2), torch.tensor([[False, True, True]])
    seen = []

    def velocity(x, t, guided):
        seen.append(x[:, :, 0].clone())
        return torch.ones_like(x), None

    out = sample_flow(velocity, torch.randn(1, 2, 3, 2, 2), Sampler(steps=4), 1.0, given, noised)
    assert all(torch.equal(x, given[:, :, 0]) for x in (*seen, out[:, :, 0]))
    assert not torch.equal(out[:, :, 1], given[:, :, 1])


def test_a_start_step_begins_from_the_noised_data():
    data, noise = torch.randn(2, 1, 2, 2, 2), torch.randn(2, 1, 2, 2, 2)
    noised = torch.tensor([[True, True], [False, True]])
    seen = []

    def velocity(x, t, guided):
        seen.append((t, x.clone()))
        return torch.zeros_like(x), None

    out = sample_flow(velocity, noise, Sampler(steps=10), 1.0, data, noised, start_step=7)
    assert [t for t, _ in seen] == pytest.approx([300, 200, 100])
    expected = 0.7 * data + 0.3 * noise
    expected[1, :, 0] = data[1, :, 0]
    assert torch.allclose(seen[0][1], expected, atol=1e-6)
    assert torch.allclose(out, expected, atol=1e-6)
    seen.clear()
    assert torch.equal(sample_flow(velocity, noise, Sampler(steps=10), 1.0, data, noised, start_step=10), data)
    assert seen == []


def test_guidance_extrapolates_from_the_unconditional():
    conditional, unconditional = torch.full((1, 1, 1, 1, 1), 2.0), torch.ones(1, 1, 1, 1, 1)
    assert float(guide(conditional, unconditional, 500, Sampler(guidance=4.0))) == 5.0
    assert float(guide(conditional, None, 500, Sampler(guidance=4.0))) == 2.0


def test_guidance_outside_its_interval_costs_one_branch():
    asked = {}

    def velocity(x, t, guided):
        asked[t] = guided
        return torch.ones_like(x), torch.zeros_like(x) if guided else None

    sampler = Sampler(steps=10, guidance=3.0, guidance_interval=(300, 700))
    end = sample_flow(velocity, torch.zeros(1, 1, 1, 1, 1), sampler, 1.0)
    assert [round(t) for t, guided in asked.items() if guided] == [700, 600, 500, 400, 300]
    assert float(end) == pytest.approx(0.5 * 3 + 0.5 * 1, abs=1e-5)
    assert not guides_at(500, Sampler(guidance=1.0)), "a scale of 1 is the conditional branch alone"


def test_rescale_moves_the_deviation_to_the_conditional_one():
    v, conditional = torch.tensor([[0.0, 8.0]]).view(1, 1, 1, 1, 2), torch.tensor([[0.0, 2.0]]).view(1, 1, 1, 1, 2)
    assert rescale(v, conditional, 1.0).flatten().tolist() == [0.0, 2.0]
    assert rescale(v, conditional, 0.7).flatten().tolist() == pytest.approx([0.0, 0.7 * 2 + 0.3 * 8])
    sampler = Sampler(guidance=4.0, guidance_rescale=0.7)
    assert guide(conditional, torch.zeros_like(v), 500, sampler).flatten().tolist() == pytest.approx([0.0, 3.8])


def test_rescale_treats_each_clip_by_itself():
    v, conditional = torch.randn(2, 2, 2, 2, 2), torch.randn(2, 2, 2, 2, 2)
    v[1] *= 100
    assert torch.allclose(rescale(v, conditional, 0.7)[:1], rescale(v[:1], conditional[:1], 0.7))


@pytest.mark.parametrize(
    ("timestep", "threshold", "limit"),
    [
        (960, 0.15, 9.8),  # the larger of the 0.98 quantile and the threshold
        (960, 50.0, 50.0),
        (950, 0.15, 0.15),  # the smaller
        (401, 50.0, 9.8),
        (400, 50.0, 9.5),  # the smaller, with the 0.95 quantile
        (100, 0.15, 0.15),
    ],
)
def test_dynamic_clamp_limits_the_difference_by_quantile_and_table(timestep, threshold, limit):
    """The absolute differences are 0, 0.1, ..., 10: their quantile p is 10 p."""
    difference = (torch.arange(101) / 10 * (-1.0) ** torch.arange(101)).view(1, 1, 101, 1, 1).repeat(1, 2, 1, 1, 1)
    sampler = Sampler(guidance=2.0, dynamic_clamp={1: threshold})
    out = guide(difference.clone(), torch.zeros_like(difference), timestep, sampler)
    assert torch.allclose(out[:, 0], 2 * difference[:, 0]), "channels without a threshold are free"
    assert torch.allclose(out[:, 1], 2 * difference[:, 1].clamp(-limit, limit), atol=1e-4)


def test_dynamic_clamp_takes_each_clip_s_own_quantile():
    difference = torch.randn(2, 1, 3, 4, 4)
    difference[1] *= 100
    sampler = Sampler(guidance=1.5, dynamic_clamp={0: 1e6})
    both = guide(difference, torch.zeros_like(difference), 500, sampler)
    alone = guide(difference[:1], torch.zeros_like(difference[:1]), 500, sampler)
    assert torch.equal(both[:1], alone)


def test_the_published_clamp_is_that_of_channels_4_and_8():
    assert Sampler.model_validate({"dynamic_clamp": "published"}).dynamic_clamp == {4: 0.15, 8: 0.15}


def test_defaults_are_the_published_sampler():
    sampler = Sampler()
    assert (sampler.steps, sampler.method, sampler.guidance, sampler.guidance_interval) == (25, "euler", 4.0, (0.0, 1000.0))
    assert (sampler.guidance_rescale, sampler.dynamic_clamp) == (0.0, {})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "rk4"}, "'euler' or 'ab2'"),
        ({"guidance_interval": (700, 300)}, r"\[lowest, highest\] timestep, got \[700, 300\]"),
        ({"guidance_interval": (0, 2000)}, "less than or equal to 1000"),
        ({"guidance_rescale": 1.5}, "less than or equal to 1"),
        ({"dynamic_clamp": "always"}, "expected `published` or a threshold by latent channel"),
        ({"dynamic_clamp": {4: 0}}, "greater than 0"),
        ({"steps": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_sampler_setting_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Sampler.model_validate(setting)
