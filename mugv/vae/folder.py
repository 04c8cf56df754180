"""A trained VideoVAE as a folder: model.safetensors and config.json."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.vae.model import VideoVAE

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_vae(vae: VideoVAE, folder: Path) -> None:
    """Write weights, buffers and config; the folder is created."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in vae.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(vae.config.model_dump(mode="json"), indent=2) + "\n")


def load_vae(folder: Path) -> VideoVAE:
    """The VideoVAE in `folder`, in evaluation mode. UserError when a file is missing, broken or does not fit the config."""
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no VAE: {name} is missing")
    try:
        config = VAEModel.model_validate_json((folder / CONFIG).read_text())
        state = load_file(folder / WEIGHTS)
    except (ValidationError, SafetensorError) as error:
        raise UserError(f"{folder} holds no readable VAE: {str(error).splitlines()[0]}") from error
    vae = VideoVAE(config)
    own = vae.state_dict()
    wrong = [n for n in sorted(own.keys() | state.keys()) if n not in own or n not in state or own[n].shape != state[n].shape]
    if wrong:
        raise UserError(f"{folder / WEIGHTS} does not fit {CONFIG}: {len(wrong)} tensors differ, first {', '.join(wrong[:3])}")
    vae.load_state_dict(state)
    return vae.eval()
