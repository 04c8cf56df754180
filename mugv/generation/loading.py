"""The networks of a checkpoint and a VAE folder, in the precision that they compute in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mugv.dit.model import MugDiT
from mugv.errors import UserError
from mugv.precision import Precision, here, resolve
from mugv.recipe.schema import Parallel
from mugv.training.model_io import load_dit
from mugv.vae import VideoVAE, load_vae

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def open_networks(checkpoint: Path, vae: Path, precision: Precision, vae_precision: Precision) -> tuple[MugDiT, dict[str, Any], VideoVAE]:
    """The DiT, its config.json and the VAE. Raises UserError for folders that are none and for weights that are no numbers."""
    dit_format, vae_format = resolve(precision, here()), resolve(vae_precision, here())
    if here() == "cuda" and "bf16" in (dit_format, vae_format):
        # As the published script: what stays fp32 beside bf16 networks multiplies in TF32.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    model, config = load_dit(checkpoint, Parallel(precision=dit_format))
    check_weights(model, checkpoint)
    video_vae = load_vae(vae)
    check_weights(video_vae, vae)
    return model, config, video_vae.to(here(), DTYPES[vae_format])


@torch.no_grad()
def check_weights(network: nn.Module, folder: Path) -> None:
    """UserError naming the first parameter that holds NaN or infinity: a training that came apart."""
    for name, parameter in network.named_parameters():
        if not is_finite(parameter):
            raise UserError(f"{folder}: {name} holds values that are not finite: its training came apart; use an earlier checkpoint")


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; without a copy of the tensor."""
    if not values.numel():
        return True
    low, high = torch.aminmax(values)
    return bool(torch.isfinite(low) & torch.isfinite(high))
