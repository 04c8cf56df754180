"""A tiny VideoVAE for tests of encoding and decoding."""

import torch

from mugv.recipe.models import VAEModel
from mugv.vae import VideoVAE

TINY = VAEModel(
    base_channels=8, channel_multipliers=(1, 1, 2, 2), blocks_per_level=1, temporal_channels=(8, 8, 16, 16), temporal_blocks=1, groups=4
)


def random_vae() -> VideoVAE:
    """Random weights on every branch: the silent residual branches of a fresh net would hide mistakes."""
    torch.manual_seed(0)
    net = VideoVAE(TINY)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return net.eval()
