"""Bytes of one rank in a training step, from shapes alone: weights, gradients, optimizer, activations, temporaries, messages.

The activations are the tensors that the blocks of mugv.dit.layers keep for backward, listed one by one in `block_tensors`, so that
a change there shows as a failing test here (tests/unit/test_memory.py counts them with saved-tensor hooks).

Legend: S tokens, B clips side by side, K conditions of a clip row, L text rows, D width, N heads. `chunk` tokens of a context rank,
`local` what one rank holds between the linears (less than the chunk under sequence parallelism).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import NamedTuple

from mugv.precision import resolve
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Parallel, Recipe, TrainStage
from mugv.training.flops import FREQUENCY_WIDTH, Clip, dit_parameters

VALUE_BYTES = {"fp32": 4, "bf16": 2}
FP32 = 4
GRADIENT_BYTES = 4
"""Gradients are accumulated and reduced in fp32."""
AVERAGE_BYTES = 4
"""The running average of the weights is kept in fp32, each rank's share beside its masters."""


@dataclass(frozen=True)
class MicroBatch:
    """Clips of one forward pass. Batched clips share a length and lie side by side; packed ones follow each other on the token axis."""

    tokens: int
    """Rows of the token axis."""
    side_by_side: int
    conditions: int
    text: int
    """Rows of the text axis."""
    clips: int

    @classmethod
    def batched(cls, clip: Clip, count: int) -> MicroBatch:
        return cls(clip.tokens, count, 2, clip.text, count)

    @classmethod
    def packed(cls, clips: Sequence[Clip]) -> MicroBatch:
        return cls(sum(c.tokens for c in clips), 1, 2 * len(clips), sum(c.text for c in clips), len(clips))


@dataclass(frozen=True)
class Shapes:
    """Sizes in bytes of the tensors that recur, on one rank."""

    model: DiTModel
    text_width: int
    layout: Parallel
    micro: MicroBatch
    divisor: int = 1
    gpu: bool = True

    @property
    def width(self) -> int:
        return self.model.hidden // self.divisor

    @property
    def heads(self) -> int:
        """Of this tensor rank."""
        return self.model.heads // self.divisor // self.layout.tensor

    @property
    def value(self) -> int:
        """Bytes of a weight or an activation."""
        return VALUE_BYTES[resolve(self.layout.precision, "cuda" if self.gpu else "cpu")]

    @property
    def local_tokens(self) -> int:
        parts = self.layout.context * (self.layout.tensor if self.layout.sequence_parallel else 1)
        return -(-self.micro.tokens // parts) * self.micro.side_by_side

    @property
    def chunk_tokens(self) -> int:
        return self.local_tokens * (self.layout.tensor if self.layout.sequence_parallel else 1)

    @property
    def thin(self) -> int:
        """[local, B, D]: what flows between the linears."""
        return self.local_tokens * self.width * self.value

    @property
    def whole(self) -> int:
        """[chunk, B, D]: a gathered `thin`."""
        return self.chunk_tokens * self.width * self.value

    @property
    def wide(self) -> int:
        """[chunk, B, D / tensor]: a column linear's output for each D of its width."""
        return self.whole // self.layout.tensor

    @property
    def text(self) -> int:
        """[L, B, D]."""
        return self.micro.text * self.micro.side_by_side * self.width * self.value

    def attention_copy(self, values: int) -> int:
        """Beside queries, keys and results: contiguous values for variable-length attention (GPU), else several clips' results joined."""
        packed = self.micro.side_by_side == 1
        if self.gpu and packed and self.layout.attention != "sdpa":
            return values
        return self.wide if packed and self.micro.clips > 1 else 0

    @property
    def moments(self) -> int:
        """Mean and reciprocal deviation of each local token, fp32."""
        return 2 * self.local_tokens * FP32

    @property
    def per_head(self) -> int:
        """One fp32 a token of the chunk and head: log-sum-exp, reciprocal root mean square."""
        return self.chunk_tokens * self.heads * FP32

    @property
    def vectors(self) -> int:
        """[B, K, 6, D]."""
        return self.micro.side_by_side * self.micro.conditions * 6 * self.width * self.value

    @property
    def message(self) -> int:
        """What a pipeline rank sends: tokens, 7 K conditioning rows, text."""
        return self.thin + self.vectors * 7 // 6 + self.text

    @property
    def latents(self) -> int:
        """[n, C, T, H, W] in fp32."""
        return self.micro.tokens * self.micro.side_by_side * self.model.latent_channels * self.model.patch**2 * FP32


class Kept(NamedTuple):
    """A tensor kept for backward; `remade`: selective recompute drops it and makes it again."""

    name: str
    size: int
    remade: bool = False


def block_tensors(s: Shapes) -> list[Kept]:
    """What one block keeps for backward without recompute, in the order of its forward."""
    return [
        Kept("input", s.thin),
        Kept("modulation", s.vectors),
        Kept("self: norm's moments", s.moments, True),
        Kept("self: modulated", s.thin, True),
        Kept("self: qkv", 3 * s.wide),
        *_self_attention(s),
        Kept("self: branch", s.thin),
        Kept("after self", s.thin),
        Kept("cross: norm's moments", s.moments, True),
        Kept("cross: normed", s.thin, True),
        Kept("cross: query", s.wide),
        Kept("cross: query normed", s.wide + s.per_head),
        Kept("cross: keys, values, keys normed", 3 * s.text // s.layout.tensor + s.micro.text * s.micro.side_by_side * s.heads * FP32),
        Kept("cross: attention", s.wide + s.per_head + s.attention_copy(s.text // s.layout.tensor)),
        Kept("after cross", s.thin),
        Kept("mlp: norm's moments", s.moments, True),
        Kept("mlp: modulated", s.thin, True),
        Kept("mlp: hidden", s.model.mlp_ratio * s.wide),
        Kept("mlp: activated", s.model.mlp_ratio * s.wide, True),
        Kept("mlp: branch", s.thin),
    ]


def uses_ulysses(s: Shapes) -> bool:
    return s.layout.context_method == "ulysses" or (s.layout.context_method == "auto" and s.heads % s.layout.context == 0)


def _self_attention(s: Shapes) -> list[Kept]:
    if s.layout.context == 1:
        turned = Kept("self: query and key turned", 2 * s.wide + 2 * s.per_head, True)
        return [turned, Kept("self: attention", s.wide + s.per_head + s.attention_copy(s.wide))]
    if uses_ulysses(s):
        exchanged = Kept("self: exchanged query, key, value", 3 * s.wide + 2 * s.per_head)
        return [exchanged, Kept("self: attention, there and back", 2 * s.wide + s.per_head)]
    gathered = Kept("self: query turned, all keys and values", (1 + 2 * s.layout.context) * s.wide + 2 * s.per_head)
    return [gathered, Kept("self: attention", s.wide + s.per_head + s.attention_copy(0))]


def block_bytes(s: Shapes, recompute: str) -> int:
    """Kept by one block until its backward."""
    if recompute == "full":
        return s.thin
    return sum(k.size for k in block_tensors(s) if not (recompute == "selective" and k.remade))


def first_bytes(s: Shapes) -> int:
    """Kept by the embedders: patches; the text projection's normed input, two hidden layers, output, and the rows that the blocks
    read; sinusoids and hidden layers of timestep, timestep 0 and fps."""
    patches = s.local_tokens * s.model.latent_channels * s.model.patch**2
    text = s.micro.text * s.micro.side_by_side * s.text_width
    scalars = s.micro.clips * (3 * FREQUENCY_WIDTH + 10 * s.width)
    return (patches + text + scalars) * s.value + 4 * s.text


def last_bytes(s: Shapes) -> int:
    """Kept by the head and the loss: the head's input and its modulated form, and the error in fp32."""
    return 2 * s.thin + s.moments + s.vectors // 6 + s.latents


def shared_bytes(s: Shapes) -> int:
    """Kept once whatever the number of blocks: token kinds (int64), rotations (complex64), modulation vectors."""
    return s.local_tokens * 8 + s.chunk_tokens // s.micro.side_by_side * (s.model.head_dim // 2) * 8 + s.vectors


def transient_bytes(s: Shapes, recompute: str) -> int:
    """Largest temporaries beside what is kept: they arise in the backward of a block's second MLP linear.

    The gradients of `activated`, of the residual and of one weight, and what recompute has made again by then: `activated` twice
    (megatron copies it into the freed tensor), or the whole block.
    """
    hidden = s.model.mlp_ratio * s.wide
    weight = s.model.mlp_ratio * s.width * s.width // s.layout.tensor * s.value
    gathered = s.whole if s.layout.sequence_parallel else 0
    remade = {"none": 0, "selective": 2 * hidden, "full": block_bytes(s, "none")}[recompute]
    return hidden + s.thin + gathered + weight + remade


def block_parameters(model: DiTModel, tensor: int = 1, divisor: int = 1) -> int:
    """Of one block on one tensor rank; norms, tables and the biases of row-parallel linears are whole on each."""
    h, r = model.hidden // divisor, model.mlp_ratio
    split = (8 + 2 * r) * h * h + (6 + r) * h
    return split // tensor + 11 * h + 4 * model.head_dim


def rank_parameters(model: DiTModel, text_width: int, layout: Parallel, stage: int, divisor: int = 1) -> int:
    """Parameters of pipeline stage `stage` on one tensor rank: its blocks, the embedders on the first, the head on the last."""
    h = model.hidden // divisor
    patch_out = model.latent_channels * model.patch**2 * (2 if model.learned_sigma else 1)
    head = patch_out * (h + 1) + 2 * h
    embedders = dit_parameters(model, text_width, divisor) - model.layers * block_parameters(model, 1, divisor) - head
    count = model.layers // layout.pipeline * block_parameters(model, layout.tensor, divisor)
    return count + (embedders if stage == 0 else 0) + (head if stage == layout.pipeline - 1 else 0)


def blocks_in_flight(layout: Parallel, layers: int, micro_batches: int, stage: int) -> int:
    """Blocks whose activations a pipeline stage holds at its fullest: megatron's warm-up and the pass after it."""
    pipeline, virtual = layout.pipeline, layout.virtual_pipeline
    if virtual == 1:
        return min(micro_batches, pipeline - stage) * (layers // pipeline)
    warm_up = 2 * (pipeline - stage - 1) + (virtual - 1) * pipeline
    return min(micro_batches * virtual, warm_up + 1) * (layers // (pipeline * virtual))


@dataclass(frozen=True)
class RankMemory:
    """Bytes by part, at the fullest moment of the step."""

    weights: int
    gradients: int
    optimizer: int
    """Masters, moments and the running average."""
    copies: int
    """Frozen networks beside the trained one: the reference of a preference round."""
    activations: int
    transient: int
    buffers: int
    """Pipeline messages in flight and megatron's buffer of gathered inputs."""

    @property
    def total(self) -> int:
        return sum(astuple(self))

    def parts(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def stage_memory(s: Shapes, micro_batches: int, stage: int, copies: int = 0, average: bool = False) -> RankMemory:
    """Memory of a rank of pipeline stage `stage`, which runs `micro_batches` of `s.micro` a step; `copies`: bytes a parameter of further
    networks (the precision's for a frozen reference); `average`: whether a running average is kept."""
    layout, layers = s.layout, s.model.layers
    parameters = rank_parameters(s.model, s.text_width, layout, stage, s.divisor)
    state = (4 if s.value == 2 else 0) + 8 + (AVERAGE_BYTES if average else 0)
    shards = layout.data * layout.context if layout.distributed_optimizer else 1
    blocks = blocks_in_flight(layout, layers, micro_batches, stage)
    passes = -(-blocks // (layers // (layout.pipeline * layout.virtual_pipeline)))
    first_passes = min(passes, micro_batches, layout.pipeline if layout.virtual_pipeline == 1 else 2 * layout.pipeline - 1)
    activations = blocks * block_bytes(s, layout.recompute) + passes * shared_bytes(s)
    received = s.message - s.thin - s.vectors  # text and the head's conditioning; tokens and vectors are counted as blocks' inputs
    activations += first_passes * first_bytes(s) if stage == 0 else passes * received
    head = last_bytes(s) if stage == layout.pipeline - 1 else 0
    sends = stage < layout.pipeline - 1 or layout.virtual_pipeline > 1
    messages = passes * s.message if sends else 0
    gathered = s.whole if layout.sequence_parallel else 0
    return RankMemory(
        weights=parameters * s.value,
        gradients=parameters * GRADIENT_BYTES,
        optimizer=parameters * state // shards,
        copies=copies * parameters,
        activations=activations + head,
        transient=max(0, transient_bytes(s, layout.recompute) - head),  # the head's tensors are free by then
        buffers=messages + gathered,
    )


def step_memory(s: Shapes, micro_batches: int, copies: int = 0, average: bool = False) -> RankMemory:
    """Memory of the fullest rank: on the first pipeline stage, which holds most micro-batches, or the last, which holds the head."""
    stages = {0, s.layout.pipeline - 1}
    return max((stage_memory(s, micro_batches, stage, copies, average) for stage in stages), key=lambda m: m.total)


def micro_batch_of(layout: Parallel, video: Clip, batch: int) -> tuple[MicroBatch, int]:
    """A rank's largest micro-batch and their number in a step of `batch` clips; packed ones are taken as full of videos."""
    local = max(1, batch // layout.data)
    size = min(layout.micro_batch or local, local)
    micro = MicroBatch.packed([video] * size) if layout.pack else MicroBatch.batched(video, size)
    return micro, -(-local // size)


def recipe_memory(recipe: Recipe, stage: TrainStage, video: Clip, divisor: int = 1, copies: int = 0) -> RankMemory:
    """Of the fullest rank of a training stage under the recipe's own layout."""
    micro, count = micro_batch_of(recipe.parallel, video, stage.batch)
    shapes = Shapes(recipe.dit, recipe.text.width, recipe.parallel, micro, divisor, gpu=recipe.resources.train.gpus > 0)
    return step_memory(shapes, count, copies, bool(stage.average_decay))
