"""A trained VAE measured on held-out clips: encode to the posterior's mean, decode, compare.

Legend: N clips, T frames, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mugv.vae.metrics import psnr, ssim
from mugv.vae.model import VideoVAE
from mugv.vae.samples import to_video


@torch.no_grad()
def measure(vae: VideoVAE, clips: Tensor, batch: int) -> dict[str, float]:
    """`clips` uint8 [N, T, H, W, 3], T = 8k or 1 + 8k -> vae_psnr (dB), vae_ssim, and the spread of the latents' channels."""
    vae.eval()
    decode = vae.decode_clip if clips.shape[1] % 8 == 1 else vae.decode
    quality, latents = [], []
    for part in clips.split(batch):
        video = to_video(part).to(vae.shift.device)
        mean = vae.encode(video).mean
        output, target = (decode(mean).clamp(-1, 1) + 1) / 2, (video + 1) / 2
        quality.append(torch.stack([psnr(output, target), ssim(output, target)]))
        latents.append(mean.transpose(0, 1).flatten(1))
    spread = torch.cat(latents, dim=1).std(dim=1)
    found = torch.cat(quality, dim=1).mean(dim=1)
    return {
        "vae_psnr": float(found[0]),
        "vae_ssim": float(found[1]),
        "latent_std_smallest": float(spread.min()),
        "latent_std_largest": float(spread.max()),
    }
