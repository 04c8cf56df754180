"""Generation: every task by the frame mask, and the defects of the released pipeline (facts 10.2)."""

import numpy as np
import pytest
import torch
from generation_tools import make_generator, write_checkpoint

from mugv.dit.embeddings import TextProjection
from mugv.dit.rope import rope_table
from mugv.errors import UserError
from mugv.flow.sampler import timetable
from mugv.generation import Generator, Given
from mugv.generation.seeds import noise_of
from mugv.recipe.schema import Sampler
from mugv.training.flow_data import stage_ratio

QUICK = Sampler(steps=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def generator():
    return make_generator()


class Calls:
    """Records what the network is asked, and answers as it would."""

    def __init__(self, generator, monkeypatch):
        self.asked = []
        forward = generator.model.forward

        def recorded(latents, timestep, text, text_mask, fps, noised, projected=False):
            self.asked.append({"latents": latents.clone(), "timestep": timestep, "fps": fps, "noised": noised})
            return forward(latents, timestep, text, text_mask, fps, noised, projected)

        monkeypatch.setattr(generator.model, "forward", recorded)

    def __getitem__(self, name):
        return [call[name] for call in self.asked]


@pytest.fixture
def calls(generator, monkeypatch):
    return Calls(generator, monkeypatch)


def pictures(n, frames, height=32, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, frames, height, width, 3), dtype=np.uint8)


def test_i3_text_alone_makes_a_clip_of_exactly_the_asked_frames(generator, calls):
    assert generator.generate(["a circle"], sampler=QUICK).shape == (1, 25, 32, 48, 3)
    assert generator.generate(["a circle"], size=(48, 32), frames=9, sampler=QUICK).shape == (1, 9, 48, 32, 3)
    assert all(bool(mask.all()) for mask in calls["noised"])


def test_one_frame_is_a_picture(generator, calls):
    assert generator.generate(["a circle", "a square"], frames=1, sampler=QUICK).shape == (2, 1, 32, 48, 3)
    assert calls["latents"][0].shape == (4, 4, 1, 4, 6)


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ({"first": 1}, [0]),
        ({"last": 1}, [3]),
        ({"first": 1, "last": 1}, [0, 3]),
        ({"first": 17}, [0, 1, 2]),
        ({"last": 16}, [2, 3]),
        ({"first": 9, "last": 8}, [0, 1, 3]),
    ],
)
def test_given_frames_are_clean_latents_under_the_frame_mask(generator, calls, given, clean):
    frames = {name: pictures(2, count, seed=count) for name, count in given.items()}
    clip = generator.generate(["a circle", "a square"], sampler=QUICK, given=Given(**frames))
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[:, clean] = False
    assert all(torch.equal(noised, mask) for noised in calls["noised"])
    expected = {}
    if "first" in frames:
        expected |= dict(enumerate(generator.encode(frames["first"], (32, 48)).unbind(2)))
    if "last" in frames:
        tail = generator.encode(frames["last"], (32, 48)).unbind(2)
        expected |= {4 - len(tail) + k: latent for k, latent in enumerate(tail)}
    assert sorted(expected) == clean
    for x in calls["latents"]:
        for k, latent in expected.items():
            assert torch.equal(x[:, :, k], torch.cat([latent, latent])), "the network must see the given frames clean at every step"
    for name, where in (("first", slice(0, given.get("first", 0))), ("last", slice(25 - given.get("last", 0), 25))):
        if name in frames:
            assert np.array_equal(clip[:, where], frames[name]), "given frames come back as they are"


def test_a_still_is_the_first_latent_of_its_clip(generator):
    """So that one picture conditions exactly as in training."""
    clip = pictures(1, 9)
    still, whole = generator.encode(clip[:, :1], (32, 48)), generator.encode(clip, (32, 48))
    assert still.shape[2] == 1
    assert torch.allclose(still[:, :, 0], whole[:, :, 0], atol=1e-5)


def test_i10_given_frames_are_encoded_without_noise(generator):
    clip = pictures(1, 9)
    assert torch.equal(generator.encode(clip, (32, 48)), generator.encode(clip, (32, 48)))


def test_pictures_of_another_shape_are_cropped_to_the_clip(generator):
    clip = generator.generate(["a circle"], sampler=QUICK, given=Given(first=np.full((1, 1, 99, 50, 3), 77, np.uint8)))
    assert clip.shape == (1, 25, 32, 48, 3)
    assert (clip[0, 0] == 77).all()


def test_video_to_video_starts_from_the_noised_source(generator, calls):
    source, sampler = pictures(1, 25), Sampler(steps=4, guidance=1.0)
    generator.sample(["a circle"], [5], sampler=sampler, given=Given(source=source, start_step=3))
    ratio = stage_ratio(generator.flow, (32, 48), 4)
    t = timetable(4, ratio)[3]
    assert [float(x) for x in calls["timestep"]] == pytest.approx([t])
    noise = torch.randn(4, 4, 4, 6, generator=torch.Generator().manual_seed(5))
    clean = generator.encode(source, (32, 48))
    assert torch.allclose(calls["latents"][0], (1 - t / 1000) * clean + t / 1000 * noise, atol=1e-5)


def test_video_to_video_at_the_last_step_is_the_source_itself(generator, calls):
    given = Given(source=pictures(1, 25), start_step=4)
    latents = generator.sample(["a circle"], [0], sampler=Sampler(steps=4), given=given)
    assert torch.equal(latents, generator.encode(given.source, (32, 48)))
    assert calls.asked == []


@pytest.mark.parametrize("size", [(832, 1110), (1108, 832), (40, 48), (0, 16)])
def test_i1_sizes_that_latents_and_patches_do_not_divide_are_refused(generator, size):
    with pytest.raises(UserError, match=f"size {size[0]}x{size[1]}: height and width must be multiples of 16; the nearest is "):
        generator.generate(["a"], size=size)


def test_i1_the_nearest_size_works(generator):
    with pytest.raises(UserError, match=r"the nearest is 48x64$"):
        generator.check(45, 70, 9, QUICK)
    assert generator.generate(["a"], size=(48, 64), frames=9, sampler=QUICK).shape == (1, 9, 48, 64, 3)


@pytest.mark.parametrize(("frames", "nearest"), [(24, 25), (0, 1), (10, 9), (-3, 1)])
def test_lengths_that_are_not_1_plus_8k_are_refused(generator, frames, nearest):
    with pytest.raises(UserError, match=rf"frames {frames}: must be 1 \+ 8k; the nearest is {nearest}$"):
        generator.generate(["a"], frames=frames)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Given(first=pictures(1, 5)), r"5 first frames: must be 1 \+ 8k"),
        (Given(last=pictures(1, 9)), "9 last frames: must be one picture or 8k frames"),
        (Given(first=pictures(1, 25)), "given frames fill all latents of a clip of 25 frames"),
        (Given(first=pictures(1, 17), last=pictures(1, 1)), "given frames fill all latents of a clip of 25 frames"),
        (Given(first=pictures(2, 1)), r"given first: expected \[1 prompts, frames, height, width, 3\], got \[2, 1, 32, 48, 3\]"),
        (Given(source=pictures(1, 17), start_step=1), "the source has 17 frames, the clip 25"),
        (Given(source=pictures(1, 25)), "a source clip and a start step of at least 1 go together"),
        (Given(start_step=2), "a source clip and a start step of at least 1 go together"),
        (Given(source=pictures(1, 25), start_step=4), "start step 4: the sampler has 3 steps"),
    ],
)
def test_given_pictures_that_do_not_fit_are_refused_in_one_line(generator, given, message):
    with pytest.raises(UserError, match=message):
        generator.generate(["a"], sampler=QUICK, given=given)


def test_a_clamp_of_a_missing_channel_is_refused(generator):
    with pytest.raises(UserError, match="dynamic_clamp: there is no channel 8; the latents have channels 0 to 3"):
        generator.generate(["a"], sampler=Sampler(dynamic_clamp={3: 0.15, 8: 0.15}))


def test_seeds_must_match_the_prompts(generator):
    with pytest.raises(UserError, match="2 seeds for 3 prompts"):
        generator.generate(["a", "b", "c"], seeds=[1, 2], sampler=QUICK)


def test_i2_seed_0_is_a_seed_of_its_own(generator):
    clips = {seed: generator.sample(["a circle"], [seed], frames=9, sampler=QUICK) for seed in (0, 42)}
    assert not torch.equal(clips[0], clips[42])
    assert torch.equal(clips[0], generator.sample(["a circle"], [0], frames=9, sampler=QUICK))


def test_all_64_bits_of_a_seed_count(generator):
    """torch's generator takes the low 32: 0 and 2**32 gave the same clip, and so did many others."""
    seeds = [0, 1, 2**32, 2**32 + 1, 2**63, 2**63 - 1, 2**64 - 1, 2**64 - 2**32]
    noises = [noise_of(seed, (8,)) for seed in seeds]
    assert len({tuple(noise.tolist()) for noise in noises}) == len(seeds)
    assert all(torch.equal(noise, noise_of(seed, (8,))) for seed, noise in zip(seeds, noises, strict=True))
    assert torch.equal(noises[1], torch.randn(8, generator=torch.Generator().manual_seed(1))), "small seeds are torch's own"


@pytest.mark.parametrize("seed", [-1, 2**64, 2**70, 1.5, True])
def test_other_seeds_are_refused_in_one_line(generator, seed):
    with pytest.raises(UserError, match=rf"^seed {seed}: must be a whole number from 0 to 18446744073709551615$"):
        generator.sample(["a"], [seed], frames=9, sampler=QUICK)


def test_no_prompt_makes_no_clip(generator):
    assert generator.generate([]).shape == (0, 25, 32, 48, 3)
    assert generator.generate([], size=(48, 32), frames=9, seeds=[]).shape == (0, 9, 48, 32, 3)


def test_a_clip_that_no_memory_holds_is_refused_before_it_is_begun(generator):
    message = r"^size 99984x99984, 25 frames: needs at least [\d.e+]+ GB of memory, [\d.e+]+ GB are free; ask for a smaller size"
    with pytest.raises(UserError, match=message):
        generator.generate(["a"], size=(99984, 99984))


def test_i15_a_clip_does_not_depend_on_its_neighbours(generator):
    prompts, seeds = ["a circle", "a red square moves", "x"], [3, 4, 5]
    together = generator.sample(prompts, seeds, frames=9, sampler=QUICK)
    for k in range(3):
        alone = generator.sample(prompts[k : k + 1], seeds[k : k + 1], frames=9, sampler=QUICK)
        assert torch.allclose(together[k : k + 1], alone, atol=1e-4)
    in_parts = generator.generate(prompts, seeds=seeds, frames=9, sampler=QUICK, batch=2)
    assert np.abs(in_parts.astype(int) - generator.generate(prompts, seeds=seeds, frames=9, sampler=QUICK)).max() <= 1


def test_large_clips_come_one_at_a_time_and_small_ones_together(generator):
    assert generator.batch_size((720, 1280), 105) == 1
    assert generator.batch_size((48, 48), 17) == 48


def test_i5_the_checkpoint_s_fps_is_the_one_the_network_hears(calls, generator):
    generator.generate(["a"], frames=9, sampler=QUICK)
    assert all(fps.tolist() == [12.0, 12.0] for fps in calls["fps"])


def test_i6_timesteps_reach_the_network_in_fp32(generator, calls):
    generator.sample(["a"], [0], sampler=Sampler(steps=25))
    expected = timetable(25, stage_ratio(generator.flow, (32, 48), 4))[:-1]
    assert all(t.dtype == torch.float32 for t in calls["timestep"])
    assert [float(t[0]) for t in calls["timestep"]] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("method", "size"), [("euler", (64, 112)), ("ab2", (80, 16))])
def test_i8_text_is_projected_and_rope_tables_are_built_once(generator, calls, monkeypatch, method, size):
    """Each case has a size of its own, so that no table is left from another test."""
    projections = []
    forward = TextProjection.forward
    monkeypatch.setattr(TextProjection, "forward", lambda self, text: projections.append(text.shape) or forward(self, text))
    built = rope_table.cache_info().misses
    generator.sample(["a circle", "a square"], [0, 1], size=size, sampler=Sampler(steps=25, method=method))
    assert len(calls.asked) == 25
    assert len(projections) == 1, "text is projected once for both branches"
    assert rope_table.cache_info().misses == built + 1


def test_i14_guidance_outside_its_interval_costs_one_branch(generator, calls):
    generator.sample(["a"], [0], sampler=Sampler(steps=10, guidance_interval=(200, 800)))
    branches = {round(float(t[0])): len(t) for t in calls["timestep"]}
    assert all(n == (2 if 200 <= t <= 800 else 1) for t, n in branches.items())
    assert set(branches.values()) == {1, 2}
    assert len(calls.asked) == 10


def test_i14_no_guidance_costs_one_branch(generator, calls):
    generator.sample(["a"], [0], sampler=Sampler(steps=3, guidance=1.0))
    assert [len(t) for t in calls["timestep"]] == [1, 1, 1]


def test_i14_a_negative_prompt_changes_the_unconditional_branch_alone(generator):
    def sample(guidance, **more):
        return generator.sample(["a circle"], [0], frames=9, sampler=Sampler(steps=2, guidance=guidance), **more)

    assert not torch.equal(sample(4.0), sample(4.0, negative="ugly"))
    assert torch.equal(sample(4.0), sample(4.0, negative="")), "the empty text is the null text"
    assert torch.equal(sample(1.0), sample(1.0, negative="ugly"))


def test_guidance_of_both_branches_is_what_two_calls_would_give(generator):
    """The batch of two branches must not mix them up: with guidance g the first step is v_u + g (v_c - v_u)."""

    def end(guidance, prompt="a circle", negative=None):
        sampler = Sampler(steps=1, guidance=guidance)
        return generator.sample([prompt], [0], frames=9, sampler=sampler, negative=negative)

    conditional, unconditional = end(1.0), end(1.0, prompt="something else")
    guided = end(3.0, negative="something else")
    assert torch.allclose(guided, unconditional + 3 * (conditional - unconditional), atol=1e-4)


def test_decoding_streams_by_windows(generator, monkeypatch):
    """A clip is never decoded as a whole, so memory does not grow with its length."""
    longest = []
    decode = type(generator.vae).decode_window
    monkeypatch.setattr(type(generator.vae), "decode_window", lambda self, z, **more: longest.append(z.shape[2]) or decode(self, z, **more))
    latents = torch.randn(1, 4, 7, 4, 6)
    assert generator.decode(latents).shape == (1, 49, 32, 48, 3)
    assert max(longest) == generator.vae.config.decode_window < 7


def test_a_saved_checkpoint_generates_what_its_network_did(tmp_path, generator):
    opened = Generator.open(*write_checkpoint(tmp_path))
    assert torch.equal(opened.sample(["a"], [0], sampler=QUICK), generator.sample(["a"], [0], sampler=QUICK))
