"""VideoVAE: model, losses, training."""

from mugv.vae.folder import load_vae, save_vae
from mugv.vae.model import CHUNK, Posterior, VideoVAE, count_parameters

__all__ = ["CHUNK", "Posterior", "VideoVAE", "count_parameters", "load_vae", "save_vae"]
