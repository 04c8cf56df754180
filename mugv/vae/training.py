"""VAE training as a task of the one training loop: spatial, temporal and joint phases in one run (paper 3.1, 4.1).

`spatial`   the 2D trunk alone, an image autoencoder on single frames; noise on its features keeps them smooth
`temporal`  the temporal net alone, on the frozen trunk's features, computed once
`joint`     pixels; the whole net, or all but the trunk's encoder
Randomness comes from (seed, step, rank) only, so a resumed run repeats an uninterrupted one bit for bit.
Legend: N clips, B windows, C feature channels, T frames, H W pixels, h w = H/8 W/8.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mugv.draws import generator_for
from mugv.errors import UserError
from mugv.guard import Guard, RefusedStepError, from_all_ranks
from mugv.precision import resolve
from mugv.recipe.schema import VAEPhase, VAETraining
from mugv.vae.discriminator import PatchDiscriminator
from mugv.vae.linear_start import start_linear
from mugv.vae.losses import (
    discriminator_hinge,
    feature_loss,
    generator_hinge,
    kl_loss,
    reconstruction_loss,
    require_perceptual,
    saliency_weight,
)
from mugv.vae.model import SPATIAL_SCALE, VideoVAE
from mugv.vae.samples import to_images, to_video, window_indices

FEATURE_NOISE = 0.1
"""Standard deviation of the noise on the trunk's features in the spatial phase, as a share of the features' own."""
CACHE_BYTES = 2 << 30
"""Features of the frozen trunk are kept in memory up to this size, and computed in every step beyond it."""
LINEAR_WINDOWS = 512
"""Chunks whose features give the linear start."""
CLIP_GRADIENT = 1.0
STATE = "vae.pt"
STEP, LINEAR = 16, 17
"""Purposes of draws."""

Footage = Callable[[int], Tensor]
"""Size in pixels -> all training clips as uint8 [N, T, size, size, 3]."""


class VAETask:
    """What `mugv.training.loop.fit` trains; steps of all phases are numbered through."""

    def __init__(self, vae: VideoVAE, settings: VAETraining, footage: Footage, seed: int, names: Sequence[str] = ()) -> None:
        """names: of the clips, in the order of the footage, for messages."""
        require_perceptual(settings.perceptual_weight)
        self.vae, self.settings, self.footage, self.seed = vae.train(), settings, footage, seed
        self.names = names
        self.guard, self.discriminator_guard = Guard(settings.guard), Guard(settings.guard)
        self.drawn: list[int] = []
        self.steps = sum(p.steps for p in settings.phases)
        self.phase = -1
        self.clips = torch.empty(0)
        self.features: Tensor | None = None
        self.device = next(vae.parameters()).device
        self.bf16 = resolve(settings.precision, self.device.type, autocast=True) == "bf16"
        self.discriminator = PatchDiscriminator().to(self.device) if settings.gan_weight > 0 else None
        if self.discriminator:
            self.discriminator_optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=1e-4, betas=(0.5, 0.9), weight_decay=0)

    def train_step(self, step: int) -> dict[str, float]:
        """One optimizer step; `phase` in the metrics is the phase's number."""
        index, first = self._locate(step)
        if index != self.phase:
            self._enter(index)
        phase = self.settings.phases[index]
        if step == first and self.settings.linear_start and index == _first_temporal(self.settings):
            self._start_linear(phase)
        rate = _learning_rate(phase, step - first)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._untouched(self._gan_starts(phase, step)):
            with self._autocast():
                loss, metrics = self._loss(phase, step, generator_for(self.seed, step, _rank(), STEP))
            loss.backward()
            norm = self._update(loss.detach())
        values = {name: float(value) for name, value in metrics.items()}
        return {"phase": float(index), "loss": float(loss.detach()), **values, "gradient_norm": norm, "learning_rate": rate}

    @contextmanager
    def _untouched(self, with_gan: bool) -> Iterator[None]:
        """A refused step leaves no gradient behind, and the discriminator, which steps first, as it was."""
        parts: tuple[Any, ...] = (self.discriminator, self.discriminator_optimizer) if self.discriminator and with_gan else ()
        before = [copy.deepcopy(part.state_dict()) for part in parts]
        try:
            yield
        except RefusedStepError:
            self.optimizer.zero_grad(set_to_none=True)
            for part, state in zip(parts, before, strict=True):
                part.load_state_dict(state)
            raise

    def _refuse(self, guard: Guard, what: str, loss: Tensor, norm: float) -> None:
        """Raise RefusedStepError on all ranks where the guard asks for it; the clips are those that the step drew."""
        reason = guard.reason(_mean_of_ranks(loss), norm)
        if reason:
            clips = {self.names[i] if self.names else f"number {i}" for part in from_all_ranks(self.drawn) for i in part}
            raise self.guard.refused(f"{what}{reason}", sorted(clips))

    def save(self, folder: Path) -> None:
        """Everything that the next step depends on, written by rank 0. UserError where an update has overflowed, which only the next loss
        would show."""
        if not all(bool(p.isfinite().all()) for p in self.vae.parameters()):
            raise UserError("VAE training diverged: the weights are not finite after the last step; lower vae.train.phases[].learning_rate")
        if _rank() == 0:
            state = {"vae": self.vae.state_dict(), "phase": self.phase, "optimizer": self.optimizer.state_dict()}
            state["guards"] = [self.guard.state(), self.discriminator_guard.state()]
            if self.discriminator:
                state["discriminator"] = self.discriminator.state_dict()
                state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
            torch.save(state, folder / STATE)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises UserError when it is of another network."""
        try:
            state = torch.load(folder / STATE, map_location=self.device, weights_only=True)
            self.vae.load_state_dict(state["vae"])
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"checkpoint {folder}: of another network, or damaged: {reason[:160]}") from None
        self._enter(state["phase"])
        self.optimizer.load_state_dict(state["optimizer"])
        for guard, found in zip((self.guard, self.discriminator_guard), state.get("guards", ()), strict=False):
            guard.load(found)  # checkpoints of earlier versions have none
        if self.discriminator:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])

    def _locate(self, step: int) -> tuple[int, int]:
        """Number of the phase that holds `step`, and the phase's first step."""
        first = 0
        for index, phase in enumerate(self.settings.phases):
            if step < first + phase.steps:
                return index, first
            first += phase.steps
        raise ValueError(f"step {step} lies beyond the {first} steps of vae.train.phases")

    def _enter(self, index: int) -> None:
        """A phase begins: its clips, its trainable parameters, a new optimizer, the frozen trunk's features."""
        phase, before = self.settings.phases[index], self.settings.phases[self.phase] if self.phase >= 0 else None
        self.guard.forget()  # another loss has other gradients
        self.phase = index
        self.clips = self.footage(phase.size)
        chosen = trainable(self.vae, phase)
        self.vae.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(chosen, lr=phase.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        if before is not None and _frozen_encoder(before) and _frozen_encoder(phase) and before.size == phase.size:
            return
        self.features = None
        if _frozen_encoder(phase):
            self._cache_features()

    def _cache_features(self) -> None:
        """Trunk features of every training frame, [N, T, C, h, w], in the precision of the training."""
        n, t, height, width = self.clips.shape[:4]
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        shape = (n, t, self.vae.config.feature_channels, height // 8, width // 8)
        if torch.Size(shape).numel() * dtype.itemsize > CACHE_BYTES:
            return
        cache = torch.empty(shape, dtype=dtype, device=self.device)
        with torch.no_grad(), self._autocast():
            for clip, slot in zip(self.clips, cache, strict=True):
                slot.copy_(self.vae.spatial_vae.encoder(to_images(clip.to(self.device))) * SPATIAL_SCALE)
        self.features = cache

    def _start_linear(self, phase: VAEPhase) -> None:
        """The same samples on every rank, so that all ranks start alike."""
        if set(phase.windows) != {1}:
            raise UserError(f"vae.train.linear_start needs windows: [1] in the temporal phase, got {list(phase.windows)}")
        generator = generator_for(self.seed, 0, 0, LINEAR)
        n, t = self.clips.shape[:2]
        windows = window_indices(t, 1, LINEAR_WINDOWS, generator)
        which = torch.randint(n, (LINEAR_WINDOWS, 1), generator=generator)
        with torch.no_grad(), self._autocast():
            features = torch.cat([self.vae.encode_frames(to_video(self.clips[part].to(self.device))) for part in _parts(which, windows)])
        # In double precision and by small matrices: on the CPU, wherever the network is.
        start_linear(self.vae.temporal_vae.cpu(), features.cpu().permute(0, 3, 4, 2, 1).flatten(0, 2))
        self.vae.temporal_vae.to(self.device)

    def _loss(self, phase: VAEPhase, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if phase.parts == "spatial":
            return self._spatial_loss(phase, generator)
        return self._video_loss(phase, step, generator)

    def _spatial_loss(self, phase: VAEPhase, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        n, t = self.clips.shape[:2]
        which = torch.randint(n, (phase.batch,), generator=generator)
        frames = self.clips[which, torch.randint(t, (phase.batch,), generator=generator)]
        self.drawn = which.tolist()
        images = to_images(frames.to(self.device))
        features = self.vae.spatial_vae.encoder(images)
        noise = torch.randn(features.shape, generator=generator).to(features)
        output = self.vae.spatial_vae.decoder(features + FEATURE_NOISE * features.detach().std() * noise)
        loss = self._reconstruction(output.unsqueeze(2).float(), images.unsqueeze(2), None)
        return loss, {"reconstruction": loss.detach()}

    def _video_loss(self, phase: VAEPhase, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        windows, features, clips = self._windows(phase, generator)
        posterior = self.vae.posterior(features)
        output = self.vae.temporal_vae.features(posterior.sample(generator))
        kl = kl_loss(posterior)
        loss, metrics = self.settings.kl_weight * kl, {"kl": kl.detach()}
        if phase.parts == "temporal":
            match = feature_loss(output.float(), features.float())
            loss, metrics["features"] = loss + match, match.detach()
        with_gan = self._gan_starts(phase, step)
        count = windows.shape[1] if with_gan else _decoded(phase, windows.shape[1])
        if count:
            chosen = torch.rand(windows.shape, generator=generator).argsort(dim=1)[:, :count].sort(dim=1).values
            pixels, terms = self._pixel_loss(output, to_video(clips), chosen, with_gan)
            loss, metrics = loss + pixels, {**metrics, **terms}
        return loss, metrics

    def _windows(self, phase: VAEPhase, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Frame numbers [B, T], features [B, C, T, h, w] and frames uint8 [B, T, H, W, 3] of the step's windows."""
        n, t = self.clips.shape[:2]
        latents = phase.windows[int(torch.randint(len(phase.windows), (), generator=generator))]
        count = max(1, phase.batch // latents)
        which = torch.randint(n, (count, 1), generator=generator)
        self.drawn = which.flatten().tolist()
        windows = window_indices(t, latents, count, generator)
        clips = self.clips[which, windows].to(self.device)
        if self.features is not None:
            return windows, self.features[which, windows].transpose(1, 2), clips
        with torch.set_grad_enabled(not _frozen_encoder(phase)):
            return windows, self.vae.encode_frames(to_video(clips)), clips

    def _pixel_loss(self, features: Tensor, video: Tensor, chosen: Tensor, with_gan: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction of the `chosen` frames [B, count] of each window, and the adversarial term."""
        row = torch.arange(len(chosen))[:, None]
        output = self.vae.decode_frames(features.transpose(1, 2)[row, chosen].transpose(1, 2)).float()
        target = video.transpose(1, 2)[row, chosen].transpose(1, 2)
        weight = None
        if self.settings.saliency_weight > 0:
            weight = saliency_weight(video, self.settings.saliency_weight).transpose(1, 2)[row, chosen].transpose(1, 2)
        loss = self._reconstruction(output, target, weight)
        metrics = {"reconstruction": loss.detach()}
        if with_gan:
            adversarial = self._adversarial(output, target, metrics)
            loss = loss + self.settings.gan_weight * adversarial
        return loss, metrics

    def _reconstruction(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        return reconstruction_loss(output, target, self.settings.mse_weight, self.settings.l1_weight, weight)

    def _adversarial(self, output: Tensor, target: Tensor, metrics: dict[str, Tensor]) -> Tensor:
        """Trains the discriminator by one step, then scores the reconstruction with it."""
        assert self.discriminator is not None
        self.discriminator.requires_grad_(True)
        loss = discriminator_hinge(self.discriminator(target), self.discriminator(output.detach()))
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.float().backward()
        _average_gradients(self.discriminator.parameters())
        gradients = [p.grad for p in self.discriminator.parameters() if p.grad is not None]
        self._refuse(self.discriminator_guard, "discriminator: ", loss.detach(), float(nn.utils.get_total_norm(gradients)))
        self.discriminator_optimizer.step()
        self.discriminator.requires_grad_(False)
        metrics["discriminator"] = loss.detach()
        return generator_hinge(self.discriminator(output).float())

    def _gan_starts(self, phase: VAEPhase, step: int) -> bool:
        late = step >= self.steps * (1 - self.settings.gan_last_fraction)
        return self.discriminator is not None and phase.parts == "joint" and late

    def _update(self, loss: Tensor) -> float:
        """Average over ranks, clip, step. Returns the gradient norm before the clip."""
        parameters = [p for p in self.vae.parameters() if p.requires_grad]
        _average_gradients(parameters)
        norm = float(nn.utils.clip_grad_norm_(parameters, CLIP_GRADIENT))
        self._refuse(self.guard, "", loss, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def trainable(vae: VideoVAE, phase: VAEPhase) -> list[nn.Parameter]:
    """Parameters that a phase trains. The trunk's image-only layers and `logvar` take no part in any loss."""
    encoder, decoder = vae.spatial_vae.encoder, vae.spatial_vae.decoder
    parts: dict[str, list[nn.Module]] = {
        "spatial": [encoder, decoder],
        "temporal": [vae.temporal_vae],
        "joint": [decoder, vae.temporal_vae] + ([] if phase.freeze_encoder else [encoder]),
    }
    unused = {id(p) for p in vae.spatial_vae.image_only()}
    return [p for part in parts[phase.parts] for p in part.parameters() if id(p) not in unused]


def _first_temporal(settings: VAETraining) -> int:
    return next((i for i, phase in enumerate(settings.phases) if phase.parts == "temporal"), -1)


def _parts(which: Tensor, windows: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(which.split(32), windows.split(32), strict=True))


def _frozen_encoder(phase: VAEPhase) -> bool:
    return phase.parts == "temporal" or (phase.parts == "joint" and phase.freeze_encoder)


def _decoded(phase: VAEPhase, frames: int) -> int:
    """How many frames of a window reach the pixel loss."""
    wanted = phase.decode_frames if phase.decode_frames is not None else (0 if phase.parts == "temporal" else frames)
    return min(wanted, frames)


def _learning_rate(phase: VAEPhase, step: int) -> float:
    """Linear warm-up over a tenth of the phase, at most 50 steps, then linear to zero."""
    warmup = max(1, min(50, phase.steps // 10))
    return phase.learning_rate * min((step + 1) / warmup, (phase.steps - step) / max(1, phase.steps - warmup), 1.0)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _mean_of_ranks(loss: Tensor) -> float:
    """Not finite where one rank's is not."""
    total = loss.float()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total := total.clone())
        total /= dist.get_world_size()
    return float(total)


def _average_gradients(parameters) -> None:  # type: ignore[no-untyped-def]
    """Data parallel: mean of the gradients over all ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
