"""The published VideoVAE file, vae.pt: a state dict saved by torch.save, with the names and shapes of `VideoVAE` (facts 3.2).

RELEASED_SHIFT and RELEASED_SCALE are what the published DiT's latents were normalised with. They are data for a LatentNorm, the
one owner of that step; the file's buffers `shift` and `scale` hold the same numbers and are applied nowhere.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mugv.errors import UserError
from mugv.recipe.models import VAEModel
from mugv.vae.folder import vae_of
from mugv.vae.model import VideoVAE

# fmt: off
RELEASED_SHIFT = (
    -0.0194091796875, 0.09619140625, -0.796875, 0.1591796875, -0.2578125, 0.359375, -0.3203125, -0.287109375,
    -0.0069580078125, 0.3046875, 0.310546875, -0.451171875, -0.1728515625, 0.369140625, 0.2177734375, -0.00003075599670410156,
    0.1630859375, -0.267578125, -0.1962890625, -0.1298828125, -0.28515625, -0.515625, 0.5859375, -0.34375,
)
RELEASED_SCALE = (
    0.8817, 0.6523, 0.9152, 1.2117, 3.3516, 0.7528, 0.8177, 0.8637, 0.9075, 2.8875, 0.8980, 1.1202,
    1.0003, 2.5163, 0.6652, 1.2573, 0.7279, 1.0777, 1.5159, 0.8680, 1.1859, 1.0484, 2.4750, 1.5881,
)
# fmt: on
WRAPPER = "state_dict"
"""A file may hold the state dict under this one name."""


def load_release(path: Path, config: VAEModel | None = None) -> VideoVAE:
    """The VideoVAE of a vae.pt, fp32, on the CPU, in evaluation mode; `config` defaults to the published size.

    UserError when the file is missing, truncated or no state dict, and when its tensors are not exactly those of the config.
    """
    return vae_of(config or VAEModel(), _read(Path(path)), f"{path} is no VAE of this config")


def save_release(vae: VideoVAE, path: Path) -> None:
    """Write the weights and buffers as the published file has them; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor.detach().contiguous() for name, tensor in vae.state_dict().items()}, path)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} is missing: expected a vae.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is truncated or no checkpoint of tensors: {first[:200]}") from error
    if isinstance(content, Mapping) and list(content) == [WRAPPER]:
        content = content[WRAPPER]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{path} holds no state dict: expected a mapping of names to tensors")
    return content
