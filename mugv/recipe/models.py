"""The sizes of the three networks. The defaults are the published MUG-V 10B (paper 3 and the released code)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**53)]
"""Up to what JSON holds exactly in every reader, and far from the 64 bits at which generators overflow."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


def _name(text: str) -> str:
    """MLflow takes no `/` and no `:`, and models:/NAME@ALIAS is a URI."""
    if not re.fullmatch(r"\w[\w .-]{0,199}", text):
        raise ValueError("must begin with a letter or digit and hold at most 200 letters, digits, spaces and _ . -")
    return text


Name = Annotated[str, AfterValidator(_name)]


class ModelPart(BaseModel):
    """What every part of a recipe has: no unknown key, no change once made, and no number that is none (nan, infinity, true and false)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would count them as 1 and 0.
        kinds = _leaves(cls.model_fields[info.field_name].annotation) if info.field_name else set()
        if {int, float} & kinds and bool not in kinds and any(isinstance(item, bool) for item in _flat(value)):
            raise ValueError("expected a number; true and false are none")
        return value


def _leaves(annotation: Any) -> set[Any]:
    """The types that an annotation is built of."""
    parts = get_args(annotation)
    return set().union(*map(_leaves, parts)) if parts else {annotation}


def _flat(value: Any) -> Iterator[Any]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _flat(item)
    yield value


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
    decode_overlap: NonNegative = 0
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
    """`t5`: a frozen T5 encoder from a local path or the hub; `hashed`: frozen word vectors made from a hash, of words of every script."""

    kind: Literal["t5", "hashed"] = "hashed"
    """Which encoder."""
    path: str = "DeepFloyd/t5-v1_1-xxl"
    """t5: folder in the transformers layout, or hub name."""
    width: Positive = 4096
    """Width of a text token; for t5 that of its weights."""
    max_tokens: Annotated[int, Field(ge=2)] = 300
    """Longest caption, tokens, its end token among them; the rest is cut."""
