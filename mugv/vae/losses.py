"""Losses of the VideoVAE: reconstruction, Kullback-Leibler, adaptive saliency weight, adversarial (paper 4.1).

Every loss is a mean, over pixels or over latent values, so that weights do not depend on sizes.
Legend: B clips, T frames, H W pixels. Videos are [B, 3, T, H, W] in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mugv.errors import MissingFeatureError
from mugv.vae.model import Posterior

SALIENCY_LIMIT = 5.0


def reconstruction_loss(output: Tensor, target: Tensor, mse_weight: float, l1_weight: float, weight: Tensor | None = None) -> Tensor:
    """mse_weight MSE + l1_weight L1; `weight` [B, 1, T, H, W] replaces the plain L1 by a weighted one (paper 4.1)."""
    error = output - target
    absolute = error.abs() if weight is None else error.abs() * weight
    return mse_weight * error.square().mean() + l1_weight * absolute.mean()


def kl_loss(posterior: Posterior) -> Tensor:
    """Divergence from the unit Gaussian, mean over latent values."""
    return 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1.0 - posterior.logvar).mean()


def saliency_weight(video: Tensor, alpha: float) -> Tensor:
    """1 + alpha |d_t laplacian(x)| / mean, at most 5, without gradient: [B, 1, T, H, W] (paper 4.1; the paper leaves the
    normalisation open). The last frame takes the difference of the frame before."""
    with torch.no_grad():
        grey = video.mean(dim=1, keepdim=True)
        if grey.shape[2] < 2:
            return torch.ones_like(grey)
        change = (grey[:, :, 1:] - grey[:, :, :-1]).transpose(1, 2).flatten(0, 1)
        edges = _laplacian(change).abs().view(grey.shape[0], -1, 1, *grey.shape[3:]).transpose(1, 2)
        edges = torch.cat([edges, edges[:, :, -1:]], dim=2)
        mean = edges.mean(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1e-8)
        return (1.0 + alpha * edges / mean).clamp_max(SALIENCY_LIMIT)


def _laplacian(images: Tensor) -> Tensor:
    """[N, 1, H, W] -> [N, 1, H, W]; the border is repeated, so that a flat image gives zero everywhere."""
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel)


def feature_loss(output: Tensor, target: Tensor) -> Tensor:
    """MSE between feature maps, as a share of the target's mean square."""
    return F.mse_loss(output, target) / target.square().mean().clamp_min(1e-8)


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator's scores on real and reconstructed video."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def generator_hinge(fake: Tensor) -> Tensor:
    """Adversarial loss of the reconstruction: the discriminator's mean score with the sign turned."""
    return -fake.mean()


def require_perceptual(weight: float) -> None:
    """MissingFeatureError when a recipe asks for the perceptual term: its network's weights are not part of this package."""
    if weight > 0:
        raise MissingFeatureError(
            f"vae.train.perceptual_weight = {weight}: the perceptual loss needs an image network that is not installed; set it to 0"
        )
