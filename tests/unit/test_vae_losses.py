"""Each loss and each metric moves when what it measures moves."""

import pytest
import torch

from mugv.errors import MissingFeatureError
from mugv.vae.discriminator import PatchDiscriminator
from mugv.vae.losses import (
    discriminator_hinge,
    feature_loss,
    generator_hinge,
    kl_loss,
    reconstruction_loss,
    require_perceptual,
    saliency_weight,
)
from mugv.vae.metrics import psnr, ssim
from mugv.vae.model import Posterior


def test_reconstruction_mixes_mse_and_l1_by_their_weights():
    target = torch.zeros(1, 3, 2, 4, 4)
    output = torch.full_like(target, 0.5)
    assert float(reconstruction_loss(output, target, 1.0, 0.0)) == pytest.approx(0.25)
    assert float(reconstruction_loss(output, target, 0.0, 1.0)) == pytest.approx(0.5)
    doubled = torch.full((1, 1, 2, 4, 4), 2.0)
    assert float(reconstruction_loss(output, target, 1.0, 1.0, doubled)) == pytest.approx(0.25 + 1.0)


def test_kl_is_zero_for_the_unit_gaussian_only():
    zero = torch.zeros(1, 2, 1, 1, 1)
    assert float(kl_loss(Posterior(zero, zero))) == 0
    assert float(kl_loss(Posterior(zero + 2, zero))) == pytest.approx(2.0)
    assert float(kl_loss(Posterior(zero, zero - 6))) > 2


def test_saliency_weights_the_moving_edge_and_not_the_still_background():
    video = torch.zeros(1, 3, 4, 16, 16)
    for t in range(4):
        video[:, :, t, 6:10, 2 + 2 * t : 6 + 2 * t] = 1
    weight = saliency_weight(video, 1.0)
    assert weight.shape == (1, 1, 4, 16, 16)
    assert not weight.requires_grad
    assert float(weight.max()) == 5.0
    assert float(weight[..., 0, 0].max()) == 1.0
    assert torch.equal(saliency_weight(video[:, :, :1].expand(-1, -1, 4, -1, -1), 1.0), torch.ones(1, 1, 4, 16, 16))


def test_feature_loss_is_a_share_of_the_targets_power():
    target = torch.full((1, 2, 8, 2, 2), 3.0)
    assert float(feature_loss(torch.zeros_like(target), target)) == pytest.approx(1.0)
    assert float(feature_loss(target, target)) == 0


def test_hinge_losses_pull_scores_apart():
    good, bad = torch.tensor([2.0]), torch.tensor([-2.0])
    assert float(discriminator_hinge(good, bad)) == 0
    assert float(discriminator_hinge(bad, good)) == 3
    assert float(generator_hinge(good)) < float(generator_hinge(bad))


def test_the_discriminator_learns_to_tell_noise_from_flat_video():
    torch.manual_seed(0)
    net = PatchDiscriminator(8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    real, fake = torch.full((2, 3, 8, 16, 16), 0.3), torch.randn(2, 3, 8, 16, 16)
    assert net(real).shape == (2, 1, 2, 2, 2)
    losses = []
    for _ in range(25):
        loss = discriminator_hinge(net(real), net(fake))
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def test_a_perceptual_weight_without_its_network_stops_at_once():
    require_perceptual(0.0)
    with pytest.raises(MissingFeatureError, match="perceptual_weight"):
        require_perceptual(0.1)


def test_psnr_and_ssim_agree_with_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.image")
    torch.manual_seed(0)
    target = torch.rand(2, 3, 3, 24, 24)
    output = (target + 0.1 * torch.randn_like(target)).clamp(0, 1)
    for i in range(2):
        a, b = output[i].transpose(0, 1), target[i].transpose(0, 1)
        assert float(psnr(output, target)[i]) == pytest.approx(float(metrics.peak_signal_noise_ratio(a, b, data_range=1.0)), abs=1e-3)
        expected = metrics.structural_similarity_index_measure(a, b, data_range=1.0)
        assert float(ssim(output, target)[i]) == pytest.approx(float(expected), abs=5e-3)
    assert float(ssim(target, target).min()) == pytest.approx(1.0)
    assert float(psnr(target, target).min()) == pytest.approx(100.0)
