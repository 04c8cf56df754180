"""The stage train_vae on a real clip set: outputs, metrics, and going on after a kill."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import write_recipe

from mugv.curation.rows import ClipRow, write_rows
from mugv.curation.shard import write_tar
from mugv.errors import UserError
from mugv.media.encode import write_video
from mugv.media.shapes import ALL_COMBINATIONS, render, sample_motion
from mugv.recipe import Recipe, load_recipe
from mugv.stages import train_vae
from mugv.stages.base import StageContext
from mugv.training.metrics_log import MetricsLog
from mugv.vae import load_vae

VAE = {
    "vae.model.base_channels": "8",
    "vae.model.channel_multipliers": "[1, 1, 2, 2]",
    "vae.model.blocks_per_level": "1",
    "vae.model.temporal_channels": "[64, 64, 64, 64]",
    "vae.model.temporal_blocks": "1",
    "vae.model.groups": "4",
    "vae.model.decode_window": "1",
    "vae.train.linear_start": "true",
    "vae.train.save_every": "2",
    "vae.train.phases": "[{parts: spatial, steps: 4, batch: 4, learning_rate: 1.0e-3, size: 32},"
    " {parts: temporal, steps: 2, batch: 4, learning_rate: 1.0e-3, size: 32, windows: [1]},"
    " {parts: joint, steps: 2, batch: 4, learning_rate: 1.0e-3, size: 32, windows: [1], decode_frames: 2, freeze_encoder: true}]",
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(write_recipe(tmp_path_factory.mktemp("recipe")), [f"{key}={value}" for key, value in VAE.items()])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    rows, members = [], []
    for i, combination in enumerate(ALL_COMBINATIONS[::12]):
        file = io.BytesIO()
        write_video(file, render(combination, sample_motion(combination, 17, rng), 17, 48, rng), 12)
        members.append((f"c{i}.mp4", file.getvalue()))
        split = "validation" if i == 5 else "train"
        rows.append(ClipRow(f"c{i}", f"v{i}.mp4", "d", split=split, status="kept", shard="clips.tar", frames=17, width=48, height=48))
    write_tar(folder / "clips.tar", members)
    write_rows(folder / "manifest.parquet", rows)
    digest = hashlib.sha256((folder / "clips.tar").read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps({"shards": {"clips.tar": digest}}))
    return folder


def context(recipe: Recipe, clips: Path, folder: Path, name: str = "run") -> StageContext:
    for part in ("out", "work"):
        (folder / name / part).mkdir(parents=True, exist_ok=True)
    return StageContext(recipe, "train_vae", 0, {"clips": clips}, {}, folder / name / "out", folder / name / "work")


def test_the_stage_leaves_a_loadable_vae_with_its_metrics(recipe: Recipe, clips: Path, tmp_path: Path):
    ctx = context(recipe, clips, tmp_path)
    metrics = train_vae.run(ctx)
    written = json.loads((ctx.out / "metrics.json").read_text())
    assert (written.pop("precision") in ("fp32", "bf16"), written.pop("machine")["threads"] >= 1) == (True, True)
    assert written == metrics
    assert metrics["vae_measured_clips"] == 1
    assert 3 < metrics["vae_psnr"] < 60
    assert metrics["parameters"] == sum(p.numel() for p in load_vae(ctx.out).parameters())
    assert [line["phase"] for line in MetricsLog(ctx.out / "metrics.jsonl").read()] == [0] * 4 + [1] * 2 + [2] * 2


def test_a_stage_killed_after_a_phase_ends_with_the_same_weights(recipe: Recipe, clips: Path, tmp_path: Path):
    class KilledError(Exception):
        pass

    def die(done: int, total: int, values: dict[str, float]) -> None:
        if done == 5:
            raise KilledError

    whole = context(recipe, clips, tmp_path, "whole")
    train_vae.run(whole)
    cut = context(recipe, clips, tmp_path, "cut")
    with pytest.raises(KilledError):
        train_vae.run(replace(cut, progress=die))
    train_vae.run(cut)
    first, second = load_vae(whole.out).state_dict(), load_vae(cut.out).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [[line["loss"] for line in MetricsLog(ctx.out / "metrics.jsonl").read()] for ctx in (whole, cut)]
    assert losses[0] == losses[1]


def test_two_ranks_train_one_vae_and_meet_over_the_tensors_backend(recipe: Recipe, clips: Path, tmp_path: Path):
    batches = ["pretrain.0.batch=2", "pretrain.1.batch=2", "sft.batch=2", "align.rounds.0.batch=4", "align.rounds.1.batch=4"]
    two = load_recipe(write_recipe(tmp_path), [*(f"{key}={value}" for key, value in VAE.items()), *batches, "parallel.world=2"])
    ctx = context(two, clips, tmp_path)
    metrics = train_vae.run(ctx)
    assert len(MetricsLog(ctx.out / "metrics.jsonl").read()) == 8
    assert 3 < metrics["vae_psnr"] < 60
    assert all(bool(tensor.isfinite().all()) for tensor in load_vae(ctx.out).state_dict().values())


def test_a_clip_set_without_training_clips_says_so(recipe: Recipe, tmp_path: Path):
    write_rows(tmp_path / "manifest.parquet", [ClipRow("c0", "v0.mp4", "d", reason="blurred")])
    (tmp_path / "card.json").write_text(json.dumps({"shards": {}}))
    with pytest.raises(UserError, match="no clip to train on"):
        train_vae.run(context(recipe, tmp_path, tmp_path))
