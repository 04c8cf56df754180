"""The sizes of the three networks. The defaults are the published MUG-V 10B (paper 3 and the released code)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]


class ModelPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VAEModel(ModelPart):
    """VideoVAE: a 2D trunk 8x in space, then a temporal net 8x in time on independent 8-frame chunks."""

    latent_channels: Positive = 24
    """Channels of a latent."""
    base_channels: Positive = 128
    """Channels of the trunk at full size."""
    channel_multipliers: tuple[Positive, Positive, Positive, Positive] = (1, 2, 4, 4)
    """Times `base_channels`: channels of the trunk's four levels."""
    blocks_per_level: Positive = 2
    """ResNet blocks of an encoder level; a decoder level has one more."""
    temporal_channels: tuple[Positive, Positive, Positive, Positive] = (128, 256, 256, 512)
    """Channels of the temporal net's levels."""
    temporal_blocks: Positive = 4
    """ResNet blocks of a level of the temporal net."""
    groups: Positive = 32
    """Groups of every GroupNorm."""
    decode_window: Positive = 6
    """Latents that the decoder sees at once (released code: 48 frames); what it is trained for."""
    decode_overlap: Annotated[int, Field(ge=0)] = 0
    """Latents that a window shares with the one before, cross-faded; at most half a window (released code: none)."""

    @property
    def feature_channels(self) -> int:
        """Channels of the trunk's feature map, the temporal net's input."""
        return self.base_channels * self.channel_multipliers[-1]

    @model_validator(mode="after")
    def _overlap(self) -> VAEModel:
        if self.decode_overlap > self.decode_window // 2:
            raise ValueError(f"decode_overlap {self.decode_overlap} exceeds half of decode_window {self.decode_window}")
        return self

    @model_validator(mode="after")
    def _groups(self) -> VAEModel:
        widths = {self.base_channels * m for m in self.channel_multipliers} | set(self.temporal_channels)
        wrong = sorted(w for w in widths if w % self.groups)
        if wrong:
            raise ValueError(f"every channel count must be a multiple of groups = {self.groups}, got {wrong}")
        return self


class DiTModel(ModelPart):
    """MUG-DiT, the largest width that the recipe reaches; expansion stages start from smaller ones."""

    layers: Positive = 56
    """Transformer blocks."""
    hidden: Positive = 3456
    """Width of a token."""
    heads: Positive = 48
    """Attention heads; their width must be a multiple of 6."""
    latent_channels: Positive = 24
    """Channels of a latent; equal to `vae.model.latent_channels`."""
    patch: Positive = 2
    """Rows and columns of latents that make one token."""
    mlp_ratio: Positive = 4
    """Width of the MLP over `hidden`."""
    learned_sigma: bool = True
    """The release's head predicts 2x latent channels and discards the second half."""
    gate_init: Literal["random", "zero"] = "random"
    """random: the release's tables; zero: gates start at zero (adaLN-zero)."""

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @model_validator(mode="after")
    def _heads(self) -> DiTModel:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        if self.head_dim % 6:
            raise ValueError(f"head width {self.head_dim} must be a multiple of 6: pairs for row, column and time")
        return self


class TextEncoder(ModelPart):
    """`t5`: a frozen T5 encoder from a local path or the hub; `hashed`: frozen word vectors made from a hash."""

    kind: Literal["t5", "hashed"] = "hashed"
    """Which encoder."""
    path: str = "DeepFloyd/t5-v1_1-xxl"
    """t5: folder in the transformers layout, or hub name."""
    width: Positive = 4096
    """Width of a text token; for t5 that of its weights."""
    max_tokens: Positive = 300
    """Longest caption, tokens; the rest is cut."""
