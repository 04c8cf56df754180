"""The evaluation must judge the right clips against the right captions, and say so when it cannot judge at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mugv.evaluation import output
from mugv.evaluation.assess import assess
from mugv.evaluation.columns import batch_size, generate
from mugv.evaluation.prompts import evaluation_combinations, held_out_combinations
from mugv.evaluation.reconstruction import Mean, quality, reconstruct, to_clips, to_tensor
from mugv.evaluation.scores import ATTRIBUTES, ROWS
from mugv.media.shapes import Motion, parse_caption, render, sample_motion, seen_combinations
from mugv.recipe.models import VAEModel
from mugv.recipe.schema import Evaluate, Sampler
from mugv.vae import VideoVAE

SIZE, FRAMES = (48, 48), 9


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Row:
    clip_id: str
    caption: str
    split: str


class FootageClips:
    """Rendered footage behind the interface of a clip set: two captions in five do not name a combination."""

    def __init__(self, clips: int, captions: str = "") -> None:
        self.made, self.known = {}, []
        rng = np.random.default_rng(0)
        for k in range(clips):
            combination = seen_combinations()[k * 7 % 60]
            caption = captions or (combination.caption(k % 3) if k % 5 < 3 else "somebody walks a dog")
            self.known.append(Row(f"clip{k}", caption, "validation"))
            self.made[f"clip{k}"] = render(combination, sample_motion(combination, 17, rng), 17, 96, rng)

    def rows(self, split=None):
        return [r for r in self.known if split in (None, r.split)]

    def frames(self, clip_id):
        return self.made[clip_id]


class PerfectVAE(torch.nn.Module):
    """Loses nothing, so that the column's scores must equal those of the real clips."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def encode(self, video):
        return SimpleNamespace(mean=video)

    def decode_clip(self, latents):
        return latents


class Painter:
    """Draws exactly what the caption says; `wrong` attributes are drawn as something else. Records how it was asked."""

    size, frames = SIZE, FRAMES

    def __init__(self, wrong: str = "") -> None:
        self.wrong, self.calls = wrong, []

    def generate(self, prompts, *, size, frames, seeds, sampler, given):
        self.calls.append(SimpleNamespace(prompts=prompts, seeds=seeds, first=given.first, steps=sampler.steps))
        return np.stack([self.paint(p, size, frames, s) for p, s in zip(prompts, seeds, strict=True)])

    def paint(self, prompt, size, frames, seed):
        asked = parse_caption(prompt)
        if asked is None:
            return np.full((frames, *size, 3), 90, np.uint8)
        rng = np.random.default_rng(seed)
        clip = render(
            asked, Motion(0.5, 0.5, 1.0, 0.0) if self.wrong == "direction" else sample_motion(asked, frames, rng), frames, size[0], rng
        )
        return clip[..., [1, 2, 0]] if self.wrong == "colour" else clip


@pytest.fixture(scope="module")
def perfect():
    progress = []
    painter = Painter()
    settings = Evaluate(clips=48, sampler=Sampler(steps=3, guidance=2.0))
    found = assess(FootageClips(60), PerfectVAE(), painter, settings, lambda *step: progress.append(step))
    return SimpleNamespace(found=found, painter=painter, progress=progress)


def column(assessment, key):
    return next(c for c in assessment.columns if c.key == key)


def test_a_perfect_model_scores_one_in_every_column(perfect):
    metrics = perfect.found.metrics()
    expected = {f"{c}_{a}" for c in ("real", "vae_reconstruction", "t2v_seen", "t2v_held_out", "i2v") for a in ROWS}
    assert expected | {"vae_psnr", "vae_ssim"} == set(metrics)
    assert {name: metrics[name] for name in expected} == dict.fromkeys(expected, 1.0)
    assert metrics["vae_psnr"] == 100


@pytest.mark.parametrize("wrong", ["colour", "direction"])
def test_a_model_that_gets_one_attribute_wrong_loses_that_one_alone(wrong):
    metrics = assess(FootageClips(20), PerfectVAE(), Painter(wrong), Evaluate(clips=12), lambda *_: None).metrics()
    for key in ("t2v_seen", "t2v_held_out", "i2v"):
        assert {a: metrics[f"{key}_{a}"] for a in ATTRIBUTES} == {a: float(a != wrong) for a in ATTRIBUTES}
        assert metrics[f"{key}_all"] == 0


def test_each_column_asks_for_its_own_combinations(perfect):
    assert set(column(perfect.found, "t2v_seen").combinations) == set(evaluation_combinations())
    assert set(column(perfect.found, "t2v_held_out").combinations) == set(held_out_combinations())
    assert column(perfect.found, "t2v_seen").captions[0] == evaluation_combinations()[0].caption(0)


def test_image_to_video_gets_the_first_frames_and_captions_of_held_out_clips(perfect):
    calls = [c for c in perfect.painter.calls if c.first is not None]
    given = np.concatenate([c.first[:, 0] for c in calls])
    real = column(perfect.found, "real")
    np.testing.assert_array_equal(given, np.stack([clip[0] for clip in real.clips]))
    assert [p for c in calls for p in c.prompts] == real.captions


def test_captions_that_do_not_parse_are_not_judged(perfect):
    assert len(column(perfect.found, "real").clips) == 36
    assert all(parse_caption(c) for c in column(perfect.found, "real").captions)


def test_progress_reaches_its_total_exactly_once(perfect):
    done = [step[0] for step in perfect.progress]
    assert done == sorted(done)
    assert done[-1] == perfect.progress[-1][1] == 36 + 36 + 2 * 48
    assert done.count(done[-1]) == 1


def test_no_seed_is_used_twice(perfect):
    seeds = [s for c in perfect.painter.calls for s in c.seeds]
    assert len(set(seeds)) == len(seeds)


def test_clips_do_not_depend_on_the_batch_size(monkeypatch):
    prompts = [c.caption() for c in evaluation_combinations()[:7]]
    whole = generate(Painter(), prompts, Sampler(), SIZE, FRAMES, 5, lambda _: None)
    monkeypatch.setattr("mugv.evaluation.columns.PIXELS_A_BATCH", 2 * FRAMES * SIZE[0] * SIZE[1])
    painter = Painter()
    np.testing.assert_array_equal(generate(painter, prompts, Sampler(), SIZE, FRAMES, 5, lambda _: None), whole)
    assert [len(c.prompts) for c in painter.calls] == [2, 2, 2, 1]
    assert batch_size((720, 1280), 121) == 1


@pytest.mark.parametrize(
    ("settings", "captions", "says"), [({"judge": "none"}, "", "evaluate.judge: none"), ({}, "a dog", "held-out captions names")]
)
def test_footage_that_cannot_be_judged_gets_samples_and_a_reason(settings, captions, says, tmp_path):
    found = assess(FootageClips(20, captions), PerfectVAE(), Painter(), Evaluate(clips=144, **settings), lambda *_: None)
    assert says in found.judge_reason
    assert set(found.metrics()) == {"vae_psnr", "vae_ssim"}
    assert [c.key for c in found.columns] == ["vae_reconstruction", "t2v", "i2v"]
    sheets = output.write_samples(found, tmp_path, 12)
    assert all((tmp_path / s.still).is_file() and (tmp_path / s.moving).is_file() for s in sheets)
    assert [s.note for s in column(found, "i2v").pairs(2)] == ["real", "", "real", ""]


def test_footage_without_validation_clips_is_sampled_from_training_clips_and_says_so():
    clips = FootageClips(6, "a dog")
    clips.known = [Row(r.clip_id, r.caption, "train") for r in clips.known]
    found = assess(clips, PerfectVAE(), Painter(), Evaluate(clips=4), lambda *_: None)
    assert (found.split, len(found.columns[0].clips)) == ("train", 4)
    assert "there are no held-out clips" in found.judge_reason
    assert "training clips" in output.facts(found, found.metrics(), {}, 0)[0].detail


def test_metrics_file_has_the_flat_metrics_and_the_table_with_intervals(perfect, tmp_path):
    output.write_metrics(perfect.found, perfect.found.metrics(), tmp_path, Sampler(), SIZE, FRAMES)
    tree = json.loads((tmp_path / "metrics.json").read_text())
    assert tree["metrics"]["i2v_all"] == 1.0
    assert tree["table"]["t2v_seen"]["colour"]["n"] == 48
    assert tree["table"]["t2v_seen"]["colour"]["low"] == pytest.approx(0.926, abs=1e-3)
    assert tree["judge_reason"] == ""


def test_marks_on_the_sheet_are_the_verdicts():
    found = assess(FootageClips(20), PerfectVAE(), Painter("direction"), Evaluate(clips=12), lambda *_: None)
    assert {tuple(s.marks.items()) for s in column(found, "t2v_seen").strips(12)} == {
        (("colour", True), ("shape", True), ("direction", None), ("steady", True))
    }


def test_curation_counts_name_every_reason(tmp_path):
    rows = [("kept", "train", ""), ("kept", "validation", ""), ("kept", "train", ""), ("rejected", "", "duplicate")]
    pq.write_table(
        pa.Table.from_pylist([dict(zip(("status", "split", "reason"), r, strict=True)) for r in rows]), tmp_path / "manifest.parquet"
    )
    assert output.clip_counts(tmp_path) == {"kept: train": 2, "kept: validation": 1, "duplicate": 1}


def test_pixels_survive_the_way_to_the_vae_and_back():
    clips = np.arange(256, dtype=np.uint8).repeat(2 * 9 * 3).reshape(2, 9, 16, 16, 3)
    np.testing.assert_array_equal(to_clips(to_tensor(clips)), clips)
    assert (to_tensor(clips).min(), to_tensor(clips).max()) == (-1, 1)


def test_reconstruction_runs_through_the_real_vae_and_is_measured():
    torch.manual_seed(0)
    config = VAEModel(
        latent_channels=4, base_channels=8, channel_multipliers=(1, 1, 1, 1), blocks_per_level=1,
        temporal_channels=(8, 8, 8, 8), temporal_blocks=1, groups=4,
    )  # fmt: skip
    clips = [FootageClips(3).frames(f"clip{k}")[:9, :32, :32] for k in range(3)]
    done = []
    made = reconstruct(VideoVAE(config), clips, 2, done.append)
    assert [m.shape for m in made] == [(9, 32, 32, 3)] * 3
    assert done == [2, 1]
    psnr, ssim = quality(clips, made)
    assert psnr.n == ssim.n == 3
    assert psnr.low < psnr.value < psnr.high < 40


def test_mean_interval_is_that_of_the_normal_distribution():
    mean = Mean.of([1.0, 2.0, 3.0, 4.0])
    assert (mean.value, mean.high) == (2.5, pytest.approx(2.5 + 1.96 * 1.29099 / 2, abs=1e-4))
