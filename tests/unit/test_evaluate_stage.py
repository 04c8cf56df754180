"""The evaluate stage on a real clip set, latent set, VAE and DiT (untrained): everything that later stages read must be there."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mugv.curation.rows import ClipRow, write_rows
from mugv.media.encode import write_video
from mugv.media.shapes import render, sample_motion, seen_combinations
from mugv.recipe import Recipe
from mugv.stages import encode, evaluate
from mugv.stages.base import StageContext
from mugv.store.base import Ref

STAGE = {"steps": 1, "batch": 1, "size": [32, 32], "frames": 9, "optimizer": {"learning_rate": 0.1}}
VAE = {"latent_channels": 4, "base_channels": 8, "channel_multipliers": [1, 1, 1, 1], "blocks_per_level": 1, "groups": 4}
TREE = {
    "name": "small",
    "curation": {"clip": {"frames": 9, "short_side": 48}},
    "vae": {
        "model": {**VAE, "temporal_channels": [8, 8, 8, 8], "temporal_blocks": 1},
        "train": {"phases": [{"parts": "joint", "steps": 1, "batch": 1, "learning_rate": 0.1}]},
    },
    "encode": {"sizes": [[32, 32]]},
    "text": {"width": 16, "max_tokens": 8},
    "dit": {"layers": 1, "hidden": 24, "heads": 2, "latent_channels": 4},
    "pretrain": [{"name": "only", **STAGE}],
    "evaluate": {"clips": 12, "flow_loss_clips": 4, "sampler": {"steps": 2, "guidance": 2.0}},
    "register": {"gate": {"minimum": {"t2v_seen_colour": 0.9}}},
}


def write_clip_set(folder: Path, recipe: Recipe, caption: str = "") -> None:
    """Eight clips for validation and four for training, in the layout that the curate stage publishes."""
    (folder / "shards").mkdir(parents=True)
    rows, rng, shard = [], np.random.default_rng(0), "shards/clips-00000.tar"
    with tarfile.open(folder / shard, "w") as tar:
        for k, combination in enumerate(seen_combinations()[::5]):
            buffer = io.BytesIO()
            write_video(buffer, render(combination, sample_motion(combination, 9, rng), 9, 48, rng), 12)
            content = buffer.getvalue()
            member = tarfile.TarInfo(f"clip{k}.mp4")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            known = {
                "width": 48,
                "height": 48,
                "fps": 12.0,
                "frames": 9,
                "status": "kept",
                "split": "train" if k % 3 == 0 else "validation",
            }
            text, digest = caption or combination.caption(), hashlib.sha256(content).hexdigest()
            rows.append(ClipRow(f"clip{k}", "a.mp4", "0" * 64, caption=text, shard=shard, digest=digest, **known))
    rows.append(ClipRow("lost", "b.mp4", "1" * 64, reason="unreadable"))
    write_rows(folder / "manifest.parquet", rows)
    digest = hashlib.sha256((folder / shard).read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps({"shards": {shard: digest}}))


def evaluated(folder: Path, caption: str = "") -> tuple[Path, dict[str, float], list[tuple[int, int]]]:
    """Build the inputs with untrained networks, run the stage: (its output, its metrics, its progress)."""
    from mugv.dataset.latentset import LatentSet
    from mugv.stages.dit_common import describe
    from mugv.training.engine import build_model
    from mugv.training.model_io import save_model
    from mugv.vae import VideoVAE, save_vae

    recipe, steps = Recipe.model_validate(TREE), []
    inputs = {name: folder / name for name in ("clips", "vae", "latents", "checkpoint")}
    refs = {name: Ref(f"file:///store/{name}", name * 8, name * 9) for name in inputs}

    def context(out: Path) -> StageContext:
        out.mkdir()
        work = folder / f"{out.name}-work"
        work.mkdir()
        return StageContext(recipe, "evaluate", 0, inputs, refs, out, work, lambda done, total, values: steps.append((done, total)))

    torch.manual_seed(0)
    write_clip_set(inputs["clips"], recipe, caption)
    save_vae(VideoVAE(recipe.vae.model), inputs["vae"])
    (inputs["vae"] / "metrics.jsonl").write_text('{"step": 0, "time": 1.0, "loss": 0.5}\n')
    encoding = context(inputs["latents"])
    encode.run(encoding)
    model = build_model(recipe.dit, recipe.text.width, 1, recipe.parallel, 0)
    save_model(model, inputs["checkpoint"], describe(encoding, LatentSet.open(inputs["latents"]), recipe.pretrain[0], 1))
    (inputs["checkpoint"] / "metrics.jsonl").write_text('{"step": 0, "time": 1.0, "flow_loss": 2.0}\n')
    steps.clear()
    metrics = evaluate.run(context(folder / "evaluate"))
    return folder / "evaluate", metrics, steps


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield evaluated(tmp_path_factory.mktemp("judged"))
    torch.set_num_threads(before)


def test_metrics_have_the_names_that_the_gate_uses(judged):
    out, metrics, _ = judged
    assert {"real_colour", "vae_reconstruction_shape", "t2v_seen_all", "t2v_held_out_direction", "i2v_colour", "vae_psnr"} <= set(metrics)
    assert metrics["validation_flow_loss"] > 0
    assert json.loads((out / "metrics.json").read_text())["metrics"] == metrics


def test_every_metric_is_kept_by_prompt_for_the_comparison_with_the_champion(judged):
    from mugv.evaluation.paired import FILE, compare, read_results

    out, metrics, _ = judged
    results = read_results(out / FILE)
    for name in metrics:
        found = compare(name, results, results)
        assert found.wins == found.losses == 0
    assert set(results["validation"].prompts) <= set(results["vae"].prompts) == {f"clip{k}" for k in range(12) if k % 3}
    assert len(results["t2v_seen"].prompts) == 12
    assert results["t2v_seen"].values["colour"].count(1.0) / 12 == pytest.approx(metrics["t2v_seen_colour"])
    assert np.mean(results["validation"].values["flow_loss"]) == pytest.approx(metrics["validation_flow_loss"])


def test_the_judge_is_right_on_real_clips_and_finds_nothing_in_an_untrained_model(judged):
    _, metrics, _ = judged
    assert [metrics[f"real_{name}"] for name in ("colour", "shape", "direction")] == [1.0, 1.0, 1.0]
    assert metrics["t2v_seen_all"] < 0.2


def test_samples_and_report_are_written(judged):
    out, _, _ = judged
    names = {p.name for p in (out / "samples").iterdir()}
    assert {"t2v_seen.png", "t2v_held_out.webp", "i2v.png", "vae_reconstruction.png", "preview.webp", "i2v-00.mp4"} <= names
    page = (out / "report.html").read_text()
    for text in ("small: evaluation", "train_vae", "pretrain-0", "unreadable", "threshold 0.90", "file:///store/latents"):
        assert text in page, text


def test_progress_counts_every_clip(judged):
    steps = judged[2]
    assert steps[-1] == (8 + 24 + 8, 8 + 24 + 8)


def test_real_footage_gets_samples_instead_of_scores(tmp_path):
    out, metrics, _ = evaluated(tmp_path, caption="a woman turns around")
    assert not any(name.startswith(("t2v", "i2v", "real")) for name in metrics)
    assert "vae_psnr" in metrics
    assert "held-out captions names" in json.loads((out / "metrics.json").read_text())["judge_reason"]
    assert "held-out captions names" in (out / "report.html").read_text()
    assert (out / "samples/t2v.png").is_file()
