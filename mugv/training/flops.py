"""FLOPs, tokens and parameters of a DiT, from shapes alone: plain arithmetic, nothing is built. Facts 4.2, 4.7, 7.5.

A multiply-add counts as two. Only matrix products count: norms, RoPE, activations and the optimizer do not. Training is three forwards;
what a recomputation repeats earns no credit in MFU and is added in HFU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import NamedTuple

from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Recipe, TrainStage

H100_PEAK = 989e12
"""Dense bf16 FLOP/s of one H100 SXM."""
FREQUENCY_WIDTH = 256
"""Width of the sinusoids of timestep and fps."""
HASHED_WORDS = 8
"""Text tokens of a caption where the encoder is the hashed one, whose captions are short."""


class Clip(NamedTuple):
    """Tokens of one clip (start and end token included) and of its text, without padding."""

    tokens: int
    text: int


@dataclass(frozen=True)
class Flops:
    """One forward pass by part. The first five are the blocks; `ends` is patch embedding, final layer, scalar and text embedders."""

    self_linear: float = 0.0
    self_attention: float = 0.0
    cross_linear: float = 0.0
    cross_attention: float = 0.0
    mlp: float = 0.0
    ends: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, factor: float) -> Flops:
        return Flops(*(a * factor for a in astuple(self)))

    @property
    def blocks(self) -> float:
        return self.forward - self.ends

    @property
    def attention(self) -> float:
        """Scores and values of both attentions, without their linears."""
        return self.self_attention + self.cross_attention

    @property
    def forward(self) -> float:
        return sum(astuple(self))

    @property
    def training(self) -> float:
        """Forward and backward: what MFU counts."""
        return 3 * self.forward

    def hardware(self, recompute: str) -> float:
        """`training` and what the mode repeats: `full` the blocks' forward, `selective` elementwise work alone, so nothing."""
        return self.training + (self.blocks if recompute == "full" else 0.0)


def dit_parameters(model: DiTModel, text_width: int, divisor: int = 1) -> int:
    """Parameters of a DiT whose width and heads are divided by `divisor`; 10,830,321,984 at the published size."""
    h = model.hidden // divisor
    r = model.mlp_ratio
    attention = 4 * h * h + 4 * h
    block = 2 * attention + 2 * h + (2 * r * h * h + (r + 1) * h) + 6 * h + 4 * model.head_dim
    patch_in = model.latent_channels * model.patch**2
    patch_out = patch_in * (2 if model.learned_sigma else 1)
    scalars = 2 * (FREQUENCY_WIDTH * h + h + h * h + h) + 6 * h * h + 6 * h
    text = text_width * h + h + h * h + h
    return model.layers * block + (patch_in + 1) * h + scalars + text + 2 * h + (patch_out * h + patch_out) + 2 * h


def tokens(model: DiTModel, size: tuple[int, int], frames: int) -> int:
    """Tokens of a clip: latent frames x patches, plus start and end. `size` in pixels."""
    return (1 + frames // 8) * (size[0] // (8 * model.patch)) * (size[1] // (8 * model.patch)) + 2


def clip_flops(model: DiTModel, text_width: int, clip: Clip, divisor: int = 1) -> Flops:
    """Forward pass of one clip: full self-attention, cross-attention to its own text, nothing for padding."""
    h, n, s, c = model.hidden // divisor, model.layers, clip.tokens, clip.text
    patch_in = model.latent_channels * model.patch**2
    patch_out = patch_in * (2 if model.learned_sigma else 1)
    scalars = 3 * (FREQUENCY_WIDTH * h + h * h) + 2 * 6 * h * h  # the timestep, timestep 0, fps; the modulation of both timesteps
    ends = ((s - 2) * patch_in + s * patch_out) * h + scalars + c * (text_width * h + h * h)  # the head runs over all tokens
    return Flops(
        self_linear=n * 2.0 * s * 4 * h * h,
        self_attention=n * 4.0 * s * s * h,
        cross_linear=n * 2.0 * (s * 2 * h * h + c * 2 * h * h),
        cross_attention=n * 4.0 * s * c * h,
        mlp=n * 2.0 * s * 2 * model.mlp_ratio * h * h,
        ends=2.0 * ends,
    )


def step_flops(model: DiTModel, text_width: int, clips: Iterable[Clip], divisor: int = 1) -> Flops:
    """Forward pass of a step's clips, batched or packed: a clip attends to itself alone, so the parts add up."""
    counted = Counter(clips).items()
    return sum((clip_flops(model, text_width, clip, divisor) * count for clip, count in counted), Flops())


def forward_flops(model: DiTModel, text_width: int, sequence: int, text_tokens: int, divisor: int = 1) -> float:
    """FLOPs of one clip's forward pass."""
    return clip_flops(model, text_width, Clip(sequence, text_tokens), divisor).forward


class Utilisation(NamedTuple):
    """Shares of the peak: `mfu` counts the model's own FLOPs, `hfu` what was executed."""

    mfu: float
    hfu: float


def utilisation(step: Flops, seconds: float, ranks: int, recompute: str = "none", peak: float = H100_PEAK) -> Utilisation:
    """Of a training step: `step` is the forward pass of all its clips on all ranks, `peak` FLOP/s of one rank."""
    available = seconds * ranks * peak
    return Utilisation(step.training / available, step.hardware(recompute) / available)


@dataclass(frozen=True)
class StageCost:
    """Cost of one DiT training stage."""

    parameters: int
    tokens: float
    video: Clip
    """The longest clip."""
    sample: Flops
    """Forward pass of one clip, the mean over images and videos."""
    clips: int

    @property
    def flops(self) -> float:
        return self.clips * self.sample.training


def stage_divisor(recipe: Recipe, index: int) -> int:
    """How much narrower pretraining stage `index` is than the final width."""
    divisor = 1
    for stage in recipe.pretrain[index + 1 :]:
        divisor *= stage.expand.factor if stage.expand else 1
    return divisor


def caption_tokens(recipe: Recipe) -> int:
    """Text tokens that a plan counts for a caption: the encoder's maximum; a training step counts the true ones."""
    text = recipe.text
    return min(text.max_tokens, HASHED_WORDS) if text.kind == "hashed" else text.max_tokens


def stage_cost(recipe: Recipe, stage: TrainStage, divisor: int = 1) -> StageCost:
    """Cost of a stage; images (single frames) count with their mean share over the stage."""
    model, words = recipe.dit, caption_tokens(recipe)
    video, image = (Clip(tokens(model, stage.size, frames), words) for frames in (stage.frames, 1))
    share = sum(getattr(stage, "image_fraction", (0.0, 0.0))) / 2
    both = [clip_flops(model, recipe.text.width, clip, divisor) * weight for clip, weight in ((video, 1 - share), (image, share))]
    clips = stage.steps * stage.batch
    mean_tokens = (1 - share) * video.tokens + share * image.tokens
    return StageCost(dit_parameters(model, recipe.text.width, divisor), clips * mean_tokens, video, both[0] + both[1], clips)
