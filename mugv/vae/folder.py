"""A trained VideoVAE as a folder: model.safetensors (the released names) and config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mugv import digests
from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.vae.model import VideoVAE

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_vae(vae: VideoVAE, folder: Path) -> None:
    """Write weights, buffers and config; the folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    # Beside its place, then renamed: the network's own tensors may be the pages of the file that is replaced (load_vae).
    temporary = folder / f".{WEIGHTS}.writing"
    save_file({name: tensor.contiguous() for name, tensor in vae.state_dict().items()}, temporary)
    temporary.replace(folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(vae.config.model_dump(mode="json"), indent=2) + "\n")
    digests.write(folder, digests.compute(folder, [WEIGHTS]))


def load_vae(folder: Path) -> VideoVAE:
    """The VideoVAE in `folder`, in evaluation mode. UserError when a file is missing, broken or does not fit the config.

    Weights that are fp32 in the file are its pages, read when they are needed and never written back: nothing is held twice.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no VAE: {name} is missing")
    digests.check(folder)
    try:
        config = VAEModel.model_validate_json((folder / CONFIG).read_text())
        state = load_file(folder / WEIGHTS)
    except (ValidationError, SafetensorError) as error:
        raise UserError(f"{folder} holds no readable VAE: {str(error).splitlines()[0]}") from error
    return vae_of(config, state, f"{folder / WEIGHTS} does not fit {CONFIG}")


def vae_of(config: VAEModel, state: Mapping[str, Tensor], complaint: str) -> VideoVAE:
    """A VideoVAE with these weights (fp32, on the CPU), in evaluation mode. UserError, beginning with `complaint`, when a
    name is missing or unknown, or a shape differs; it names the first three."""
    with torch.device("meta"):
        vae = VideoVAE(config)
    own = vae.state_dict()
    wrong = [text for name in sorted(own.keys() | state.keys()) if (text := _difference(name, own.get(name), state.get(name)))]
    if wrong:
        raise UserError(
            f"{complaint}: {len(wrong)} of {len(own)} tensors differ: {'; '.join(wrong[:3])}{'; ...' if len(wrong) > 3 else ''}"
        )
    vae.load_state_dict(state, assign=True)
    return vae.float().eval()


def _difference(name: str, own: Tensor | None, given: Tensor | None) -> str:
    if own is None:
        return f"{name} is unknown"
    if given is None:
        return f"{name} is missing"
    return "" if own.shape == given.shape else f"{name} is {list(given.shape)}, expected {list(own.shape)}"
