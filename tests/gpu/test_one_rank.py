"""One rank on a GPU against the same network on the CPU: losses and gradients, fp32 and bf16; and the VAE."""

from __future__ import annotations

import pytest
import torch

from mugv.dit.config import make_config
from mugv.dit.init import initialise
from mugv.dit.model import MugDiT
from mugv.recipe.models import DiTModel, VAEModel
from mugv.recipe.schema import Parallel
from mugv.training import process_groups
from mugv.training.objectives import FlowBatch, clip_losses, pack
from mugv.vae import VideoVAE

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU", allow_module_level=True)

MODEL = DiTModel(layers=4, hidden=288, heads=4, latent_channels=4)
TEXT = 32
SMALL_VAE = VAEModel(
    base_channels=8, channel_multipliers=(1, 1, 2, 2), blocks_per_level=1, temporal_channels=(8, 8, 16, 16), temporal_blocks=1, groups=4
)
LOSS = {"fp32": 1e-5, "bf16": 1e-2}
GRADIENT = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest norm of a gradient's difference, relative to the gradient's norm."""


def batch(count: int, frames: int = 3, side: int = 8) -> FlowBatch:
    g = torch.Generator().manual_seed(frames)
    shape = (count, 4, frames, side, side)
    noised = torch.ones(count, frames, dtype=torch.bool)
    noised[0, 0] = frames == 1
    return FlowBatch(
        latent=torch.randn(shape, generator=g),
        noise=torch.randn(shape, generator=g),
        timestep=torch.linspace(100, 900, count),
        noised=noised,
        text=torch.randn(count, 6, TEXT, generator=g),
        text_mask=torch.arange(6)[None] < torch.arange(6, 6 - count, -1)[:, None],
        fps=torch.full((count,), 24.0),
    )


def network(device: str, layout: Parallel) -> MugDiT:
    process_groups.initialise(Parallel())
    config = make_config(MODEL, TEXT, 1, layout)
    net = MugDiT(config)
    initialise(net, 0)
    return net.to(device=device, dtype=config.params_dtype).train()


def loss_and_gradients(device: str, clips: FlowBatch, layout: Parallel) -> tuple[float, dict[str, torch.Tensor]]:
    net = network(device, layout)
    loss = clip_losses(net, clips.to(device)).mean()
    loss.backward()
    return float(loss), {name: p.grad.float().cpu() for name, p in net.named_parameters()}


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["one", "batched", "packed"])
def test_losses_and_gradients_are_those_of_the_cpu(kind: str, precision: str, recompute: str) -> None:
    attention = "sdpa" if precision == "fp32" else "auto"  # variable-length kernels take 16-bit values only
    clips = {"one": batch(1), "batched": batch(3), "packed": pack([batch(2), batch(1, 1, 4)])}[kind]
    expected_loss, expected = loss_and_gradients("cpu", clips, Parallel())
    loss, found = loss_and_gradients("cuda", clips, Parallel(precision=precision, recompute=recompute, attention=attention))
    assert loss == pytest.approx(expected_loss, rel=LOSS[precision])
    for name, gradient in found.items():
        if name.endswith("linear_kv.bias"):
            continue  # its half for the keys has no true gradient
        difference = float((gradient - expected[name]).norm() / expected[name].norm().clamp(min=1e-6))
        assert difference <= GRADIENT[precision], name


def test_vae_forward_is_that_of_the_cpu() -> None:
    torch.manual_seed(0)
    vae = VideoVAE(SMALL_VAE).eval()
    video = torch.rand(1, 3, 17, 32, 48) * 2 - 1
    with torch.no_grad():
        latent = vae.encode(video).mean
        decoded = vae.decode(latent)
        vae.cuda()
        on_gpu = vae.encode(video.cuda()).mean
        assert torch.allclose(on_gpu.cpu(), latent, atol=1e-3, rtol=1e-3)
        assert torch.allclose(vae.decode(latent.cuda()).cpu(), decoded, atol=1e-3, rtol=1e-3)
