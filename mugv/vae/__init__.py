"""VideoVAE: model, losses, training."""

from mugv.vae.folder import load_vae, save_vae
from mugv.vae.model import CHUNK, Posterior, VideoVAE, count_parameters
from mugv.vae.release import RELEASED_SCALE, RELEASED_SHIFT, load_release, save_release
from mugv.vae.tiling import Tiling

__all__ = [
    "CHUNK",
    "RELEASED_SCALE",
    "RELEASED_SHIFT",
    "Posterior",
    "Tiling",
    "VideoVAE",
    "count_parameters",
    "load_release",
    "load_vae",
    "save_release",
    "save_vae",
]
