"""VAE training: phases train what they say, learn, and resume bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mugv.errors import MissingFeatureError, UserError
from mugv.media.shapes import ALL_COMBINATIONS, render, sample_motion
from mugv.recipe.models import VAEModel
from mugv.recipe.schema import VAEPhase, VAETraining
from mugv.training.loop import fit
from mugv.training.metrics_log import MetricsLog
from mugv.vae import VideoVAE
from mugv.vae.linear_start import start_linear
from mugv.vae.reconstruct import measure
from mugv.vae.samples import window_indices
from mugv.vae.training import VAETask, trainable

MODEL = VAEModel(
    base_channels=8, channel_multipliers=(1, 1, 2, 2), blocks_per_level=1, temporal_channels=(16, 16, 16, 16), temporal_blocks=1, groups=4
)


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([render(c, sample_motion(c, 17, rng), 17, 16, rng) for c in ALL_COMBINATIONS[::9]]))


def phase(parts: str, steps: int, **more) -> VAEPhase:
    return VAEPhase(parts=parts, steps=steps, **{"batch": 4, "learning_rate": 2e-3, "size": 16, "windows": (1, 2), **more})


def make(clips: torch.Tensor, *phases: VAEPhase, **settings) -> VAETask:
    torch.manual_seed(0)
    return VAETask(VideoVAE(MODEL), VAETraining(phases=phases, **settings), lambda size: clips, seed=3)


class KilledError(Exception):
    pass


def stop_after(task: VAETask, step: int) -> None:
    train_step = task.train_step

    def dying(now: int) -> dict[str, float]:
        if now == step:
            raise KilledError
        return train_step(now)

    task.train_step = dying  # type: ignore[method-assign]


@pytest.mark.parametrize(("killed", "precision"), [(3, "fp32"), (4, "fp32"), (7, "fp32"), (4, "bf16")])
def test_a_killed_run_goes_on_with_the_same_losses_and_ends_with_the_same_state(clips, tmp_path: Path, killed: int, precision: str):
    """In bf16 too: its weight gradient of a conv over two frames padded in time is garbage on the CPU, and garbage does not repeat."""
    settings = {"gan_weight": 0.1, "gan_last_fraction": 0.3, "saliency_weight": 1.0, "save_every": 2, "precision": precision}
    phases = (phase("spatial", 3), phase("temporal", 3, decode_frames=2), phase("joint", 4, decode_frames=3))
    whole = make(clips, *phases, **settings)
    fit(whole, tmp_path / "whole", whole.steps, 2)
    first = make(clips, *phases, **settings)
    stop_after(first, killed)
    with pytest.raises(KilledError):
        fit(first, tmp_path / "cut", first.steps, 2)
    second = make(clips, *phases, **settings)
    fit(second, tmp_path / "cut", second.steps, 2)
    losses = [[line["loss"] for line in MetricsLog(tmp_path / run / "metrics.jsonl").read()] for run in ("whole", "cut")]
    assert len(losses[0]) == 10
    assert losses[0] == losses[1]
    states = [torch.load(tmp_path / run / "step-00000010" / "vae.pt", weights_only=True) for run in ("whole", "cut")]
    assert _same(*states)


def _same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize(
    ("parts", "more", "moved"),
    [
        ("spatial", {}, {"spatial_vae.encoder", "spatial_vae.decoder"}),
        ("temporal", {}, {"temporal_vae"}),
        ("joint", {"freeze_encoder": True}, {"spatial_vae.decoder", "temporal_vae"}),
        ("joint", {}, {"spatial_vae.encoder", "spatial_vae.decoder", "temporal_vae"}),
    ],
)
def test_a_phase_trains_its_own_parts_and_leaves_the_rest(clips, parts, more, moved):
    task = make(clips, phase(parts, 3, **more))
    before = {name: p.detach().clone() for name, p in task.vae.named_parameters()}
    for step in range(3):
        task.train_step(step)
    moving = {name for name, p in task.vae.named_parameters() if not torch.equal(p, before[name])}
    changed = {name.replace("spatial_vae.module.", "spatial_vae.") for name in moving}
    assert {
        part for part in ("spatial_vae.encoder", "spatial_vae.decoder", "temporal_vae") if any(n.startswith(part) for n in changed)
    } == moved
    unused = ("encoder.conv_out", "encoder.conv_norm_out", "decoder.conv_in", "logvar")
    assert not [n for n in changed if n.startswith(tuple("spatial_vae." + u for u in unused)) or n == "logvar"]
    expected = {id(p) for p in trainable(task.vae, task.settings.phases[0])}
    assert all(id(p) in expected for n, p in task.vae.named_parameters() if n in moving)


def test_training_learns_something_in_every_phase(clips):
    task = make(
        clips, phase("spatial", 40, batch=16), phase("temporal", 40, windows=(3,), batch=12), phase("joint", 20, windows=(3,), batch=12)
    )
    before = measure(task.vae, clips, 8)["vae_psnr"]
    logs = [task.train_step(step) for step in range(100)]
    assert logs[39]["reconstruction"] < 0.5 * logs[0]["reconstruction"]
    assert logs[79]["features"] < 0.5 * logs[40]["features"]
    after = measure(task.vae, clips, 8)
    assert after["vae_psnr"] > before + 6
    assert 0 < after["vae_ssim"] < 1
    assert [log["phase"] for log in (logs[39], logs[40], logs[80])] == [0, 1, 2]


def test_the_learning_rate_warms_up_and_ends_near_zero_in_each_phase(clips):
    task = make(clips, phase("spatial", 20), phase("spatial", 20))
    rates = [task.train_step(step)["learning_rate"] for step in range(40)]
    assert rates[:20] == rates[20:]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(2e-3)
    assert rates[19] < 2e-4


def test_features_computed_in_each_step_equal_those_kept_in_memory(clips, monkeypatch):
    kept = make(clips, phase("temporal", 2))
    first = [kept.train_step(step)["features"] for step in range(2)]
    monkeypatch.setattr("mugv.vae.training.CACHE_BYTES", 0)
    computed = make(clips, phase("temporal", 2))
    second = [computed.train_step(step)["features"] for step in range(2)]
    assert kept.features is not None
    assert computed.features is None
    assert first == pytest.approx(second, rel=1e-4)


def test_the_adversary_comes_only_in_the_last_fraction(clips):
    task = make(clips, phase("joint", 10), gan_weight=0.1, gan_last_fraction=0.2)
    assert [("discriminator" in task.train_step(step)) for step in range(10)] == [False] * 8 + [True] * 2


def test_a_perceptual_weight_is_refused_before_training(clips):
    with pytest.raises(MissingFeatureError):
        make(clips, phase("joint", 1), perceptual_weight=0.1)


def test_bf16_training_runs_and_keeps_fp32_weights(clips):
    task = make(clips, phase("spatial", 1), phase("temporal", 1), phase("joint", 1), precision="bf16")
    assert all(np.isfinite(task.train_step(step)["loss"]) for step in range(3))
    assert {p.dtype for p in task.vae.parameters()} == {torch.float32}


def test_windows_stay_inside_the_clip_and_start_with_the_repeated_first_frame():
    windows = window_indices(17, 3, 50, torch.Generator().manual_seed(0))
    assert windows.shape == (50, 24)
    assert windows.unique(dim=0).tolist() == [[0] * 8 + list(range(1, 17))]
    short = window_indices(17, 1, 400, torch.Generator().manual_seed(0))
    assert short.min() == 0
    assert short.max() == 16
    assert [0] * 8 in short.tolist()
    assert list(range(9, 17)) in short.tolist()
    assert list(range(4, 12)) in short.tolist()
    with pytest.raises(UserError, match="windows of 4 latents need clips of at least 32 frames, got 17"):
        window_indices(17, 4, 1, torch.Generator())


@pytest.mark.parametrize("widths", [(64, 64, 64, 64), (48, 56, 64, 96)])
def test_the_linear_start_is_the_principal_subspace_of_the_features(widths):
    torch.manual_seed(0)
    config = MODEL.model_copy(update={"temporal_channels": widths, "latent_channels": 12, "decode_window": 1})
    vae = VideoVAE(config)
    channels = config.feature_channels
    hidden = torch.randn(2000, 12) @ torch.randn(12, 8 * channels)
    features = hidden.view(-1, 8, channels) + 3.0 + 0.01 * torch.randn(2000, 8, channels)
    lost = start_linear(vae.temporal_vae, features)
    assert lost < 0.01
    grid = features[:36].view(1, 6, 6, 8, channels).permute(0, 4, 3, 1, 2)
    with torch.no_grad():
        posterior = vae.posterior(grid)
        output = vae.temporal_vae.features(posterior.mean)
    error = (output - grid).square().mean() / (grid - 3.0).square().mean()
    assert float(error) < 0.05
    assert 0.5 < float(posterior.mean.std()) < 2
    assert float(posterior.logvar.max()) == pytest.approx(-6.0)


def test_a_linear_start_for_longer_windows_or_too_few_channels_is_refused(clips):
    with pytest.raises(UserError, match=r"needs windows: \[1\]"):
        make(clips, phase("temporal", 1, windows=(1, 2)), linear_start=True).train_step(0)
    with pytest.raises(UserError, match="16 temporal channels in 4 groups hold 4 signals"):
        make(clips, phase("temporal", 1, windows=(1,)), linear_start=True).train_step(0)
