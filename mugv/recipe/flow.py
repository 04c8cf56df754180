"""The parts of a recipe about rectified flow: training's timesteps and losses, which frames are given, the sampler."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mugv.recipe.models import Fraction, NonNegative, Positive, Rate, Weight
from mugv.recipe.models import ModelPart as Part

Timestep = Annotated[float, Field(ge=0, le=1000)]

OPEN_SORA_MASK = {
    "image_head": 0.22,
    "image_tail": 0.005,
    "image_head_tail": 0.005,
    "random": 0.01,
    "interpolate": 0.002,
    "quarter_random": 0.002,
    "quarter_head": 0.002,
    "quarter_tail": 0.002,
    "quarter_head_tail": 0.002,
}
"""Open-Sora 1.2's ratios, a quarter of the clips in all; `image_random` is 0 there."""


class FrameMask(Part):
    """Probabilities of giving latent frames clean, by kind (mugv/flow/masks.py); the rest of the clips give none.

    In a recipe the word `open-sora` stands for Open-Sora 1.2's probabilities, a quarter of the clips in all.
    """

    image_head: Fraction = 0.0
    """The first latent frame."""
    image_tail: Fraction = 0.0
    """The last latent frame."""
    image_head_tail: Fraction = 0.0
    """The first and the last latent frame."""
    image_random: Fraction = 0.0
    """One latent frame anywhere."""
    random: Fraction = 0.0
    """Each latent frame with one chance, drawn between 0.1 and 0.9 for the clip."""
    interpolate: Fraction = 0.0
    """Every second latent frame."""
    quarter_random: Fraction = 0.0
    """A run of up to a quarter of the latent frames, anywhere."""
    quarter_head: Fraction = 0.0
    """A run of up to a quarter at the start."""
    quarter_tail: Fraction = 0.0
    """A run of up to a quarter at the end."""
    quarter_head_tail: Fraction = 0.0
    """A run of up to a quarter at each end."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: object) -> object:
        if isinstance(given, str) and given != "open-sora":
            raise ValueError(f"expected `open-sora` or probabilities by kind ({', '.join(cls.model_fields)})")
        return OPEN_SORA_MASK if given == "open-sora" else given

    @model_validator(mode="after")
    def _sum(self) -> FrameMask:
        total = sum(self.model_dump().values())
        if total > 1 + 1e-9:
            raise ValueError(f"the probabilities of all kinds must sum to at most 1, they sum to {total:g}")
        return self


class Flow(Part):
    """Rectified flow: x_t = (1 - t) x0 + t noise, t shifted by sqrt(HW / 512^2) sqrt(F) times `shift_scale`."""

    time_shift: bool = True
    """Shift timesteps towards noise with size and length; false: no shift."""
    shift_scale: Rate = 1.0
    """Factor on the shift."""
    timestep: Literal["logit-normal", "uniform"] = "logit-normal"
    """Distribution of u before the shift; stratified over all data-parallel ranks' clips of a step."""
    image_loss_weight: Weight = 0.3
    """Weight of the loss of single-frame samples; videos count 1."""
    caption_dropout_t2v: Fraction = 0.1
    """Share of clips without given frames that train with the empty text."""
    caption_dropout_i2v: Fraction = 0.5
    """Share of clips with given frames that train with the empty text."""


PUBLISHED_CLAMP = {4: 0.15, 8: 0.15}
"""Latent channels that the released dynamic clamp touches, with their thresholds."""


class Sampler(Part):
    """How clips are sampled; the defaults are those of the published sampler."""

    steps: Positive = 25
    """Steps of the sampler."""
    method: Literal["euler", "ab2"] = "euler"
    """ab2: second order (Adams-Bashforth), also one network call a step."""
    guidance: float = 4.0
    """Guidance scale; 1: the conditional branch alone."""
    guidance_interval: tuple[Timestep, Timestep] = (0.0, 1000.0)
    """Lowest and highest timestep with guidance; outside, the conditional branch alone is evaluated, at half the cost."""
    guidance_rescale: Fraction = 0.0
    """Share of the guided velocity that is rescaled to the conditional one's standard deviation."""
    dynamic_clamp: dict[NonNegative, Rate] = Field(default_factory=dict)
    """Latent channel -> threshold of the guidance's difference; the word `published` stands for the release's table."""

    @field_validator("dynamic_clamp", mode="before")
    @classmethod
    def _table(cls, given: object) -> object:
        if isinstance(given, str) and given != "published":
            raise ValueError("expected `published` or a threshold by latent channel")
        return PUBLISHED_CLAMP if given == "published" else given

    @model_validator(mode="after")
    def _interval(self) -> Sampler:
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval is [lowest, highest] timestep, got [{low:g}, {high:g}]")
        return self
