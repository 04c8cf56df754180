"""What a run costs, from shapes alone: parameters, tokens, FLOPs, memory. Plain arithmetic; nothing is built. Facts 4.2, 4.7.

FLOPs count a multiply-add as two and training as three forwards; recomputation earns no credit.
"""

from __future__ import annotations

from dataclasses import dataclass

from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel, Recipe, TrainStage

_BYTES = {"fp32": 4, "bf16": 2}


def dit_parameters(model: DiTModel, text_width: int, divisor: int = 1) -> int:
    """Parameters of a DiT whose width and heads are divided by `divisor`; 10,830,321,984 at the published size."""
    h = model.hidden // divisor
    r = model.mlp_ratio
    attention = 4 * h * h + 4 * h
    block = 2 * attention + 2 * h + (2 * r * h * h + (r + 1) * h) + 6 * h + 4 * model.head_dim
    patch_in = model.latent_channels * model.patch**2
    patch_out = patch_in * (2 if model.learned_sigma else 1)
    scalars = 2 * (256 * h + h + h * h + h) + 6 * h * h + 6 * h
    text = text_width * h + h + h * h + h
    return model.layers * block + (patch_in + 1) * h + scalars + text + 2 * h + (patch_out * h + patch_out) + 2 * h


def tokens(model: DiTModel, size: tuple[int, int], frames: int) -> int:
    """Tokens of a clip: latent frames x patches, plus start and end."""
    return (1 + frames // 8) * (size[0] // (8 * model.patch)) * (size[1] // (8 * model.patch)) + 2


def forward_flops(model: DiTModel, text_width: int, sequence: int, text_tokens: int, divisor: int = 1) -> float:
    """FLOPs of one clip's forward pass: linears, full self-attention, cross-attention with the true text length."""
    h, s, c = model.hidden // divisor, sequence, text_tokens
    block = 2 * s * h * h * (4 + 2 + 2 * model.mlp_ratio) + 2 * c * 2 * h * h + 4 * s * s * h + 4 * s * c * h
    patch = model.latent_channels * model.patch**2
    ends = 2 * (s - 2) * patch * h + 2 * s * patch * (2 if model.learned_sigma else 1) * h
    conditioning = 2 * c * (text_width * h + h * h) + 2 * 2 * (256 * h + h * h) * 2 + 2 * 2 * 6 * h * h
    return model.layers * block + ends + conditioning


@dataclass(frozen=True)
class StageCost:
    """Cost of one DiT training stage."""

    parameters: int
    tokens_per_clip: int
    tokens: float
    flops: float
    memory_bytes: float
    """Peak of one rank: weights, gradients, optimizer, activations (an estimate)."""


def stage_divisor(recipe: Recipe, index: int) -> int:
    """How much narrower pretraining stage `index` is than the final width."""
    divisor = 1
    for stage in recipe.pretrain[index + 1 :]:
        divisor *= stage.expand.factor if stage.expand else 1
    return divisor


def stage_cost(recipe: Recipe, stage: TrainStage, divisor: int = 1, text_tokens: int | None = None) -> StageCost:
    """Cost of a stage; `text_tokens` defaults to the encoder's maximum, at most 8 for the hashed one's short captions."""
    model, text = recipe.dit, recipe.text
    words = text_tokens or (min(text.max_tokens, 8) if text.kind == "hashed" else text.max_tokens)
    sequence = tokens(model, stage.size, stage.frames)
    per_clip = 3 * forward_flops(model, text.width, sequence, words, divisor)
    clips = stage.steps * stage.batch
    parameters = dit_parameters(model, text.width, divisor)
    memory = rank_memory(recipe, parameters, sequence, stage.batch, divisor)
    return StageCost(parameters, sequence, float(clips) * sequence, clips * per_clip, memory)


def rank_memory(recipe: Recipe, parameters: int, sequence: int, batch: int, divisor: int) -> float:
    """Bytes on one rank: weights and fp32 gradients, Adam moments (and fp32 masters for bf16), activations of one micro-batch."""
    layout = recipe.parallel
    split = layout.tensor * layout.pipeline
    optimizer = 8 + (4 if layout.precision == "bf16" else 0)
    shard = layout.data if layout.distributed_optimizer else 1
    weights = parameters / split * (_BYTES[layout.precision] + 4 + optimizer / shard)
    return weights + activation_bytes(recipe.dit, layout, sequence, _micro_batch(recipe, batch), divisor)


def activation_bytes(model: DiTModel, layout: Parallel, sequence: int, micro_batch: int, divisor: int) -> float:
    """About 34 values of width h a token and layer are kept for backward; full recompute keeps the layer input alone."""
    h = model.hidden // divisor
    kept = 1 if layout.recompute == "full" else 26 + 2 * model.mlp_ratio
    local = sequence / layout.context / (layout.tensor if layout.sequence_parallel or layout.recompute == "none" else 1)
    return local * micro_batch * h * kept * model.layers / layout.pipeline * _BYTES[layout.precision]


def _micro_batch(recipe: Recipe, batch: int) -> int:
    local = max(1, batch // recipe.parallel.data)
    return local if recipe.resources.train.gpus == 0 else 1
